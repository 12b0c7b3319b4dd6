"""The notebook's protocol over seeds as a PyTorch user scripts it: the peer of `rowrnn sweep`.

    python experiments/torch_seeds.py DATA.npz 0:64

Shows: what a pool of single-threaded processes, one for each core, makes of the same 64 runs. Each
trains 781 steps of `nn.Linear` and `nn.LSTM` with fused Adam and evaluates on the whole test part.
Needs PyTorch. `experiments/bench_sweep.py` writes DATA.npz and times it.
"""

import multiprocessing
import os
import sys

import numpy as np

STEPS, BATCH = 781, 128


def run(task):
    """Trains one seed; returns it with its test accuracy."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    path, seed = task
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    arrays = np.load(path)
    images = torch.from_numpy(arrays["train_images"]).float() / 255
    labels = torch.from_numpy(arrays["train_labels"]).long()
    projection, lstm, readout = (
        nn.Linear(28, 128),
        nn.LSTM(128, 128, batch_first=True),
        nn.Linear(128, 10),
    )
    modules = nn.ModuleList([projection, lstm, readout])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-3, fused=True)
    loss_of = nn.CrossEntropyLoss()

    def logits(batch):
        return readout(lstm(projection(batch))[1][0][-1])

    order = iter(())
    for _ in range(STEPS):
        index = next(order, None)
        if index is None or len(index) < BATCH:
            order = iter(torch.randperm(len(labels)).split(BATCH))
            index = next(order)
        optimizer.zero_grad(set_to_none=True)
        loss_of(logits(images[index]), labels[index]).backward()
        optimizer.step()
    test = torch.from_numpy(arrays["test_images"]).float() / 255
    with torch.inference_mode():
        predicted = torch.cat([logits(batch).argmax(1) for batch in test.split(1000)])
    return seed, float((predicted.numpy() == arrays["test_labels"]).mean())


if __name__ == "__main__":
    first, end = map(int, sys.argv[2].split(":"))
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        results = pool.map(run, [(sys.argv[1], seed) for seed in range(first, end)], chunksize=1)
    accuracies = np.array([accuracy for _, accuracy in results])
    print(f"{len(results)} seeds, mean {accuracies.mean():.4f}, sd {accuracies.std(ddof=1):.4f}")
