"""PyTorch: `nn.Linear` and `nn.LSTM`, eager, with fused Adam and all threads."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from rowrnn.bench.flops import Shape
from rowrnn.bench.oracle import FORGET_BIAS
from rowrnn.bench.peers.task import RATE, EagerLoop, Task, make_task


class _Network(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.projection = nn.Linear(shape.features, shape.projection)
        self.lstm = nn.LSTM(shape.projection, shape.hidden, batch_first=True)
        self.readout = nn.Linear(shape.hidden, shape.classes)

    def forward(self, images):
        _, (h, _) = self.lstm(self.projection(images))
        return self.readout(h[-1])


def start(batch: int, hidden: int, projection: int) -> EagerLoop:
    """The peer, with the weights of the task."""
    given = make_task(batch, hidden, projection)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.from_numpy(given.images).to(device).float() / 255
    labels = torch.from_numpy(given.labels).to(device).long()
    order = torch.from_numpy(given.order).to(device)
    network = _with_weights(given).to(device)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=RATE, fused=True)
    mean_loss = nn.CrossEntropyLoss()

    @torch.inference_mode()
    def first_logits():
        return network(images[order[:batch]]).tolist()

    def take_step(part):
        index = order[part]
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(network(images[index]), labels[index])
        loss.backward()
        optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def count_correct(part):
        return (network(images[part]).argmax(1) == labels[part]).sum()

    facts = {"versions": {"torch": torch.__version__}}
    return EagerLoop(given, facts, first_logits, take_step, count_correct)


def _with_weights(task: Task) -> _Network:
    network, hidden = _Network(task.shape), task.shape.hidden
    projection, projection_bias, inputs, recurrent, bias, readout, readout_bias = task.layers
    # nn.LSTM has two biases where the model has one. The second stays as it is, and may as well
    # hold the forget bias.
    forget = np.zeros_like(bias)
    forget[hidden : 2 * hidden] = FORGET_BIAS
    network.lstm.bias_hh_l0.requires_grad_(False)
    values = {
        "projection.weight": projection.T,
        "projection.bias": projection_bias,
        "lstm.weight_ih_l0": inputs.T,
        "lstm.weight_hh_l0": recurrent.T,
        "lstm.bias_ih_l0": bias - forget,
        "lstm.bias_hh_l0": forget,
        "readout.weight": readout.T,
        "readout.bias": readout_bias,
    }
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return network
