"""PyTorch: `nn.Linear` and `nn.LSTM`, eager, with fused Adam and all threads."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from rowrnn.bench.oracle import FORGET_BIAS
from rowrnn.bench.peers.task import EVAL_BATCH, RATE, Task, cell_ifgo


class _Network(nn.Module):
    def __init__(self, features: int, projection: int, hidden: int, classes: int):
        super().__init__()
        self.projection = nn.Linear(features, projection)
        self.lstm = nn.LSTM(projection, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, classes)

    def forward(self, images):
        _, (h, _) = self.lstm(self.projection(images))
        return self.readout(h[-1])


class _Loop:
    """A training loop as PyTorch users write it, over a data set in memory."""

    def __init__(self, task: Task):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._batch, self._step = task.batch, 0
        self._images = torch.from_numpy(task.images).to(self._device).float() / 255
        self._labels = torch.from_numpy(task.labels).to(self._device).long()
        self._order = torch.from_numpy(task.order).to(self._device)
        self._network = _with_weights(task).to(self._device)
        learned = [p for p in self._network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(learned, lr=RATE, fused=True)
        self._loss = nn.CrossEntropyLoss()
        name = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        threads = torch.get_num_threads()
        self.facts = {"device": name, "versions": {"torch": torch.__version__}, "threads": threads}

    def first_logits(self) -> list:
        """Logits [B][C] of the first batch."""
        with torch.inference_mode():
            return self._network(self._images[self._order[: self._batch]]).tolist()

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        return [self._take_step().item() for _ in range(steps)]

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        for _ in range(steps):
            self._take_step()
        self._wait()

    def evaluate(self, batches: int) -> int:
        """Counts the correct answers in as many batches of 1,000."""
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        with torch.inference_mode():
            for batch in range(batches):
                start = batch % (len(self._labels) // EVAL_BATCH) * EVAL_BATCH
                logits = self._network(self._images[start : start + EVAL_BATCH])
                correct += (logits.argmax(1) == self._labels[start : start + EVAL_BATCH]).sum()
        return int(correct)

    def _take_step(self):
        start = self._step % (len(self._labels) // self._batch) * self._batch
        self._step += 1
        index = self._order[start : start + self._batch]
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self._network(self._images[index]), self._labels[index])
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def start(task: str, batch: int) -> _Loop:
    """The peer, with the weights of the task."""
    return _Loop(Task.load(task, batch))


def _with_weights(task: Task) -> _Network:
    weights, cell = task.weights, cell_ifgo(task.weights)
    features, projection = weights["projection_kernel"].shape
    hidden, classes = weights["readout_kernel"].shape
    network = _Network(features, projection, hidden, classes)
    # nn.LSTM has two biases where the model has one. The second stays as it is, and may as well
    # hold the forget bias.
    forget = np.zeros_like(cell.bias)
    forget[hidden : 2 * hidden] = FORGET_BIAS
    network.lstm.bias_hh_l0.requires_grad_(False)
    values = {
        "projection.weight": weights["projection_kernel"].T,
        "projection.bias": weights["projection_bias"],
        "lstm.weight_ih_l0": cell.input_kernel.T,
        "lstm.weight_hh_l0": cell.recurrent_kernel.T,
        "lstm.bias_ih_l0": cell.bias - forget,
        "lstm.bias_hh_l0": forget,
        "readout.weight": weights["readout_kernel"].T,
        "readout.bias": weights["readout_bias"],
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return network
