"""Keras 3 on TensorFlow: `Dense` and `LSTM`, the step compiled by `tf.function`."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # pyright: ignore[reportMissingImports]
import tensorflow as tf  # pyright: ignore[reportMissingImports]

from rowrnn.bench.peers.task import EVAL_BATCH, RATE, Task, cell_ifgo


class _Loop:
    """A custom training loop, which is faster than `fit` and `train_on_batch`."""

    def __init__(self, task: Task, unroll: bool, jit_compile: bool):
        tf.config.experimental.enable_tensor_float_32_execution(False)
        self._batch, self._step = task.batch, 0
        self._images = tf.constant(task.images, tf.float32) / 255
        self._labels = tf.constant(task.labels)
        self._order = tf.constant(task.order)
        self._network = _with_weights(task, unroll)
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._optimizer = keras.optimizers.Adam(RATE, epsilon=1e-8)
        self._optimizer.build(self._network.trainable_variables)
        self._update = tf.function(self._update_weights, jit_compile=jit_compile)
        self._predict = tf.function(self._predict_labels, jit_compile=jit_compile)
        gpus = tf.config.list_physical_devices("GPU")
        self.facts = {
            "device": tf.config.experimental.get_device_details(gpus[0])["device_name"]
            if gpus
            else "cpu",
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        }

    def first_logits(self) -> list:
        """Logits [B][C] of the first batch."""
        images = tf.gather(self._images, self._order[: self._batch])
        return self._network(images, training=False).numpy().tolist()

    def losses(self, steps: int) -> list[float]:
        """Takes steps one by one and returns the loss of each before its update."""
        return [float(self._take_step()) for _ in range(steps)]

    def train(self, steps: int) -> None:
        """Takes steps and waits for the last."""
        for _ in range(steps - 1):
            self._take_step()
        float(self._take_step())

    def evaluate(self, batches: int) -> int:
        """Counts the correct answers in as many batches of 1,000."""
        correct = tf.zeros((), tf.int32)
        for batch in range(batches):
            start = batch % (len(self._labels) // EVAL_BATCH) * EVAL_BATCH
            correct += self._predict(
                self._images[start : start + EVAL_BATCH], self._labels[start : start + EVAL_BATCH]
            )
        return int(correct)

    def _take_step(self):
        start = self._step % (len(self._labels) // self._batch) * self._batch
        self._step += 1
        return self._update(self._order[start : start + self._batch])

    def _update_weights(self, index):
        images, labels = tf.gather(self._images, index), tf.gather(self._labels, index)
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self._network(images, training=True))
        variables = self._network.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def _predict_labels(self, images, labels):
        predicted = tf.argmax(self._network(images, training=False), -1, labels.dtype)
        return tf.reduce_sum(tf.cast(predicted == labels, tf.int32))


def start(task: str, batch: int, unroll: bool = False, jit_compile: bool = False) -> _Loop:
    """The peer, with the weights of the task."""
    return _Loop(Task.load(task, batch), unroll, jit_compile)


def _with_weights(task: Task, unroll: bool) -> keras.Model:
    weights, cell = task.weights, cell_ifgo(task.weights)
    hidden, classes = weights["readout_kernel"].shape
    network = keras.Sequential(
        [
            keras.Input(task.images.shape[1:]),
            keras.layers.Dense(weights["projection_bias"].size),
            keras.layers.LSTM(hidden, unroll=unroll),
            keras.layers.Dense(classes),
        ]
    )
    network.set_weights(
        [
            weights["projection_kernel"],
            weights["projection_bias"],
            *cell,
            weights["readout_kernel"],
            weights["readout_bias"],
        ]
    )
    return network
