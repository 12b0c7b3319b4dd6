"""The notebook's protocol over seeds as a PyTorch user scripts it: the peer of `rowrnn sweep`.

    python experiments/torch_seeds.py DATA.npz 0:64 [OUT.json] [--shuffled]

Shows: what a pool of single-threaded processes, one for each core, makes of the same 64 runs, and
what a second implementation, which shares nothing with rowrnn, gives. Each trains 781 steps of
`nn.Linear` and `nn.LSTM` with fused Adam, initialised and fed as the notebook was, and evaluates on
the whole test part. Its first epoch is in the order of the files, as the notebook's was, or with
`--shuffled` in an order of its own, as rowrnn's is. Needs PyTorch. `experiments/bench_sweep.py` and
`experiments/notebook.py` write DATA.npz and call it.
"""

import argparse
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np

STEPS, BATCH, UNITS = 781, 128, 128
# Steps to a mean of the training loss.
WINDOW = 10


def run(task):
    """Trains one seed; returns what it gave, with the mean loss of each ten steps."""
    import torch  # pyright: ignore[reportMissingImports]

    path, seed, shuffled = task
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    arrays = np.load(path)
    images = torch.from_numpy(arrays["train_images"]).float() / 255
    labels = torch.from_numpy(arrays["train_labels"]).long()
    modules = network()
    parameters = [each for each in modules.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    loss_of = torch.nn.CrossEntropyLoss()

    def logits(batch):
        projection, lstm, readout = modules
        return readout(lstm(projection(batch))[1][0][-1])

    losses = []
    # The notebook's reader took the first epoch in the order of the files.
    order = iter(() if shuffled else torch.arange(len(labels)).split(BATCH))
    for _ in range(STEPS):
        index = next(order, None)
        if index is None or len(index) < BATCH:
            order = iter(torch.randperm(len(labels)).split(BATCH))
            index = next(order)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(logits(images[index]), labels[index])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    test = torch.from_numpy(arrays["test_images"]).float() / 255
    with torch.inference_mode():
        predicted = torch.cat([logits(batch).argmax(1) for batch in test.split(1000)])
    right = predicted.numpy() == arrays["test_labels"]
    whole = STEPS // WINDOW * WINDOW
    return {
        "seed": seed,
        "train_loss": torch.stack(losses)[:whole].reshape(-1, WINDOW).mean(1).tolist(),
        "test_accuracy": float(right.mean()),
        "first256_accuracy": float(right[:256].mean()),
    }


def network():
    """Projection, LSTM and readout as TensorFlow of 2015 initialised them."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    modules = nn.ModuleList(
        [nn.Linear(28, UNITS), nn.LSTM(UNITS, UNITS, batch_first=True), nn.Linear(UNITS, 10)]
    )
    projection, lstm, readout = modules
    for layer in (projection, readout):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    limit = (3 / (UNITS + UNITS)) ** 0.5
    nn.init.uniform_(lstm.weight_ih_l0, -limit, limit)
    nn.init.uniform_(lstm.weight_hh_l0, -limit, limit)
    nn.init.zeros_(lstm.bias_ih_l0)
    nn.init.ones_(lstm.bias_ih_l0.data[UNITS : 2 * UNITS])  # The forget gate's.
    # One bias, not the sum of two, which Adam would move twice as fast.
    nn.init.zeros_(lstm.bias_hh_l0).requires_grad_(False)
    return modules


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The notebook's protocol in PyTorch.")
    parser.add_argument("data")
    parser.add_argument("seeds")
    parser.add_argument("out", nargs="?")
    parser.add_argument("--shuffled", action="store_true")
    given = parser.parse_args()
    tasks = [
        (given.data, seed, given.shuffled) for seed in range(*map(int, given.seeds.split(":")))
    ]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(run, tasks, chunksize=1)
    accuracies = np.array([result["test_accuracy"] for result in results])
    print(f"{len(results)} seeds, mean {accuracies.mean():.4f}, sd {accuracies.std(ddof=1):.4f}")
    if given.out:
        Path(given.out).write_text(json.dumps(results))
