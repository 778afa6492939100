"""A small network with residual and depthwise blocks for scanned digits (sklearn.datasets.load_digits)."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.second(torch.relu(self.bn1(self.first(x))))))


class Inverted(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = nn.functional.relu6(self.bn1(self.expand(x)))
        return x + self.bn3(self.project(nn.functional.relu6(self.bn2(self.middle(y)))))


class Digits(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Inverted(width, 3 * width), Residual(width), Inverted(width, 3 * width))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Sequential(Residual(2 * width), Inverted(2 * width, 6 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(self.down(self.blocks(x)))
        return self.head(self.deep(x).mean((2, 3)))


def digits():
    """(images, labels) to train and to test with: every fifth image."""
    data = load_digits()
    images = torch.from_numpy((data.images[:, None] / 16).astype(np.float32))
    labels = torch.from_numpy(data.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def fit(network, data, epochs, rate, seed=0, teacher=None):
    """Trained on the labels and, where there is a teacher, on what it says (Hinton et al., 2015)."""
    images, labels = data
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2)
    batches = (len(labels) + 63) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs * batches)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            # A pixel up or down, left or right: digits are not always in the middle.
            dy, dx = torch.randint(-1, 2, (2,), generator=generator).tolist()
            x = images[batch].roll((dy, dx), (2, 3))
            y = network(x)
            loss = nn.functional.cross_entropy(y, labels[batch])
            if teacher is not None:
                with torch.no_grad():
                    soft = nn.functional.softmax(teacher(x) / 2, 1)
                loss = loss + 4 * nn.functional.cross_entropy(y / 2, soft)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def accuracy(network, data):
    with torch.no_grad():
        return (network(data[0]).argmax(1) == data[1]).float().mean().item()
