"""Where a schedule computes and with which weights it predicts, found on rendered pictures."""
