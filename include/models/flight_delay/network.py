"""The network of the flight delay model: embeddings beside standardised numbers, then two hidden layers."""

from collections.abc import Mapping
from typing import Any

import torch  # noqa: TID253  # only the training step and a logged model load this file
from torch import nn  # noqa: TID253

HIDDEN = 64
DROPOUT = 0.1
LARGEST_EMBEDDING = 16


class Network(nn.Module):
    """A small feed-forward network over embeddings and numbers."""

    def __init__(self, numeric: int, categories: list[int], outputs: int) -> None:
        super().__init__()
        widths = [min(LARGEST_EMBEDDING, (count + 3) // 2) for count in categories]
        self.embeddings = nn.ModuleList(
            nn.Embedding(count, width) for count, width in zip(categories, widths, strict=True)
        )
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.05)
        self.layers = nn.Sequential(
            nn.Linear(numeric + sum(widths), HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, outputs),
        )

    def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
        """Return raw outputs (rows, outputs) from float (rows, numeric) and int64 (rows, categorical) inputs."""
        embedded = [embedding(categorical[:, index]) for index, embedding in enumerate(self.embeddings)]
        output: torch.Tensor = self.layers(torch.cat([numeric, *embedded], dim=1))
        return output


def build(schema: Mapping[str, Any]) -> nn.Module:
    """Build the network for an input schema; see ``evergreen.training.encoder.Encoder.schema``."""
    return Network(len(schema["numeric"]), list(schema["categorical"].values()), schema["outputs"])
