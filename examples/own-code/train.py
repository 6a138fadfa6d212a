"""Training code of one's own, in an image with nothing but Python: softmax regression on the digits, with files alone.

It reads and writes what docs/own-code.md describes, and imports nothing of Modelwright. A real one would use PyTorch
and its exporter; here even the ONNX file is written by hand, to show that nothing else is needed.
"""

import csv
import json
import math
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

DATA = Path(os.environ["MODELWRIGHT_DATA"])
CHECKPOINT = Path(os.environ["MODELWRIGHT_CHECKPOINT"])
OUTPUT = Path(os.environ["MODELWRIGHT_OUTPUT"])
PROGRESS = Path(os.environ["MODELWRIGHT_PROGRESS"])
TARGET = os.environ["MODELWRIGHT_TARGET"]
EPOCHS = int(os.environ.get("EPOCHS", "12"))
# Seconds that each epoch takes at least: for those who want to watch, or to disturb it.
PAUSE = float(os.environ.get("PAUSE", "0"))
LEARNING_RATE, BATCH = 0.05, 32

stopping = False


def on_stop(_signal, _frame):
    global stopping
    stopping = True


def read():
    """Rows of numbers from 0 to 1, their classes as indices, and the classes' names."""
    with DATA.open(newline="") as file:
        table = list(csv.DictReader(file))
    columns = [name for name in table[0] if name != TARGET]
    classes = sorted({row[TARGET] for row in table})
    rows = [[float(row[name]) / 16 for name in columns] for row in table]
    return rows, [classes.index(row[TARGET]) for row in table], classes


def replace(path, content):
    """Whoever reads it sees the old file or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


def probabilities(weights, row):
    scores = [sum(w * x for w, x in zip(column, row, strict=False)) + column[-1] for column in weights]
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    total = sum(powers)
    return [power / total for power in powers]


def resume(width, classes):
    """Epochs that are done, and the weights [classes][width + 1] then, the last of each the bias."""
    steps = [int(folder.name) for folder in CHECKPOINT.iterdir() if (folder / "DONE").exists()]
    if not steps:
        return 0, [[0.0] * (width + 1) for _ in range(classes)]
    state = json.loads((CHECKPOINT / str(max(steps)) / "state.json").read_text())
    print(f"resumed at step {max(steps)}, after epoch {state['epoch']}", flush=True)
    return state["epoch"], state["weights"]


def save(step, epoch, weights):
    folder = CHECKPOINT / str(step)
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"epoch": epoch, "weights": weights}))
    (folder / "DONE").touch()


def train(rows, labels, classes):
    width, steps = len(rows[0]), math.ceil(len(rows) / BATCH)
    done, weights = resume(width, len(classes))
    for epoch in range(done, EPOCHS):
        began = time.monotonic()
        order = list(range(len(rows)))
        random.Random(epoch).shuffle(order)
        loss = 0.0
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            slopes = [[0.0] * (width + 1) for _ in classes]
            for index in batch:
                row, given = rows[index], probabilities(weights, rows[index])
                loss -= math.log(max(given[labels[index]], 1e-12)) / len(rows)
                for slope, column in enumerate(slopes):
                    error = given[slope] - (slope == labels[index])
                    for at, value in enumerate(row):
                        column[at] += error * value
                    column[-1] += error
            for column, slope in zip(weights, slopes, strict=True):
                for at, value in enumerate(slope):
                    column[at] -= LEARNING_RATE * value
        step = (epoch + 1) * steps
        save(step, epoch + 1, weights)
        progress = {"step": step, "totalSteps": EPOCHS * steps, "epoch": epoch + 1, "epochs": EPOCHS, "loss": loss}
        replace(PROGRESS, {**progress, "samplesPerSecond": len(rows) / (time.monotonic() - began)})
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss:.4f}", flush=True)
        while time.monotonic() - began < PAUSE and not stopping:
            time.sleep(0.05)
        if stopping:
            print("stopped after a checkpoint", flush=True)
            sys.exit(1)
    return weights


# ONNX is protobuf: fields of a number and a value, nested by their length.


def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def node(kind, inputs, output):
    return b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)


def tensor(name, shape, numbers):
    sizes = b"".join(field(1, size) for size in shape)
    return sizes + field(2, 1) + field(8, name) + field(9, struct.pack(f"<{len(numbers)}f", *numbers))


def value(name, width):
    """A float32 tensor of any number of rows."""
    shape = field(1, field(2, "rows")) + field(1, field(1, width))
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


def onnx(weights):
    """softmax(features / 16 · weights + bias), from pixels of 0 to 16."""
    classes, width = len(weights), len(weights[0]) - 1
    by_feature = [weights[column][at] / 16 for at in range(width) for column in range(classes)]
    graph = (
        field(1, node("MatMul", ["features", "weights"], "products"))
        + field(1, node("Add", ["products", "bias"], "logits"))
        + field(1, node("Softmax", ["logits"], "probabilities"))
        + field(2, "softmax-regression")
        + field(5, tensor("weights", [width, classes], by_feature))
        + field(5, tensor("bias", [classes], [column[-1] for column in weights]))
        + field(11, value("features", width))
        + field(12, value("probabilities", classes))
    )
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def main():
    signal.signal(signal.SIGTERM, on_stop)
    rows, labels, classes = read()
    order = list(range(len(rows)))
    random.Random(7).shuffle(order)
    held_out = order[: len(order) // 5]
    known = order[len(order) // 5 :]
    weights = train([rows[index] for index in known], [labels[index] for index in known], classes)
    right = 0
    for index in held_out:
        given = probabilities(weights, rows[index])
        right += given.index(max(given)) == labels[index]
    (OUTPUT / "model.onnx").write_bytes(onnx(weights))
    replace(OUTPUT / "metrics.json", {"accuracy": right / len(held_out)})
    replace(OUTPUT / "classes.json", classes)
    print(f"accuracy {right / len(held_out):.3f} on {len(held_out)} rows", flush=True)


main()
