import torch

from dcache.lm_kv.scoring.review_windows import WindowsOfTokens
from dcache.lm_kv.scoring.scorers import WindowAttention
from tests.lm_kv.scoring.test_scorers import context, stored, window


def test_a_window_has_the_mean_of_its_best_tokens():
    torch.manual_seed(0)
    tokens = stored(torch.randn(8, 2).tolist())
    state = window(torch.randn(2, 2).tolist(), [6, 7])
    received = 2 * WindowAttention().score(tokens, context(8, state))[0, 0]
    received[6:] = 0.0
    for best in (1, 2, 3):
        score = WindowsOfTokens(3, best).score(tokens, context(8, state))[0, 0]
        first, second = (received[some].topk(best).values.mean() for some in (slice(0, 3), slice(3, 6)))
        expected = torch.stack([first] * 3 + [second] * 3 + [torch.tensor(0.0)] * 2)
        torch.testing.assert_close(score, expected)
