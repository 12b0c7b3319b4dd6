"""Keras 3 on TensorFlow: `Dense` and `LSTM`, the step compiled by `tf.function`."""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # pyright: ignore[reportMissingImports]
import tensorflow as tf  # pyright: ignore[reportMissingImports]

from rowrnn.bench.peers.task import RATE, EagerLoop, Task, make_task


def start(
    batch: int, hidden: int, projection: int, unroll: bool = False, jit_compile: bool = False
) -> EagerLoop:
    """The peer, with the weights of the task and a loop of its own, which beats `fit`."""
    given = make_task(batch, hidden, projection)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    images = tf.constant(given.images, tf.float32) / 255
    labels, order = tf.constant(given.labels), tf.constant(given.order)
    network = _with_weights(given, unroll)
    variables = network.trainable_variables
    mean_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(RATE, epsilon=1e-8)
    optimizer.build(variables)

    def first_logits():
        return network(tf.gather(images, order[:batch]), training=False).numpy().tolist()

    @tf.function(jit_compile=jit_compile)
    def update(index):
        with tf.GradientTape() as tape:
            logits = network(tf.gather(images, index), training=True)
            loss = mean_loss(tf.gather(labels, index), logits)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    @tf.function(jit_compile=jit_compile)
    def count(images, labels):
        predicted = tf.argmax(network(images, training=False), -1, labels.dtype)
        return tf.reduce_sum(tf.cast(predicted == labels, tf.int32))

    facts = {"versions": {"keras": keras.__version__, "tensorflow": tf.__version__}}
    return EagerLoop(
        given,
        facts,
        first_logits,
        take_step=lambda part: update(order[part]),
        count_correct=lambda part: count(images[part], labels[part]),
    )


def _with_weights(task: Task, unroll: bool) -> keras.Model:
    shape = task.shape
    network = keras.Sequential(
        [
            keras.Input((shape.rows, shape.features)),
            keras.layers.Dense(shape.projection),
            keras.layers.LSTM(shape.hidden, unroll=unroll),
            keras.layers.Dense(shape.classes),
        ]
    )
    network.set_weights(list(task.layers))
    return network
