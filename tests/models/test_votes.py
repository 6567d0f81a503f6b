import torch

from edgewise.models.votes import by_average, by_confidence, by_last

LOGITS = torch.tensor([[[0.9, 0.05, 0.05]], [[0.2, 0.5, 0.3]]]).log()


def test_the_surest_exit_of_every_token_counts():
    torch.testing.assert_close(by_confidence(LOGITS).exp(), torch.tensor([[0.9, 0.5, 0.3]]) / 1.7)


def test_the_mean_and_the_last():
    torch.testing.assert_close(by_average(LOGITS).exp(), torch.tensor([[0.55, 0.275, 0.175]]))
    torch.testing.assert_close(by_last(LOGITS).exp(), torch.tensor([[0.2, 0.5, 0.3]]))
