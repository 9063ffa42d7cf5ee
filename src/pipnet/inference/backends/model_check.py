"""Checks of ONNX files before ONNX Runtime or OpenVINO load them.

Their native code crashes on some malformed files, and a graph is a program: it may loop for ever, or take
any memory. So a graph must be of plain operators, constants must have the sizes that they declare, and
weights must be in the file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pipnet.errors import ModelError
from pipnet.io.protobuf import fields, integers
from pipnet.io.regular_file import read_file, typed_errors

_MAX_BYTES = 2**30
_MAX_NODES = 20_000
_MAX_ELEMENTS = 2**28
"""Maximum number of elements of a constant."""
_MAX_CHANGE = 2**24
"""Maximum number of elements of a shape that is a constant in the graph."""
_MAX_SIDE = 2**16
"""Maximum of a number that is an attribute of a node, or part of a shape."""
_TO_THE_END = 2**31 - 1
"""Numbers from here on mean "to the end" in a slice. As part of a shape they are errors of the runtime."""
_MAX_KERNEL = 256
"""Maximum of strides, paddings and the like."""
_ITEM_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element by the number of its type."""
_WINDOWS = {"kernel_shape", "strides", "pads", "dilations", "output_padding"}
_OPERATORS = """
Abs Add And BitShift Cast CastLike Ceil Celu Clip Cos CumSum Div Dropout Elu Equal Erf Exp Floor Gelu
Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log
LogSoftmax Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin
Softmax Softplus Softsign Sqrt Sub Sum Swish Tanh ThresholdedRelu Where Xor
AveragePool BatchNormalization Conv ConvTranspose DepthToSpace Einsum Gemm GlobalAveragePool
GlobalMaxPool GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization MatMul
MaxPool NonMaxSuppression RMSNormalization Resize SpaceToDepth Upsample
ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare TopK
Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND NonZero OneHot Pad Range Reshape
ScatterElements ScatterND Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze
ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear
"""
OPERATORS = frozenset(_OPERATORS.split())
"""Operators that a graph may have: those of networks, without loops, branches, sequences, texts and
random numbers."""


def check_model_file(path: Path) -> dict[str, str]:
    """Check an ONNX file, and return its metadata.

    Raises:
        ModelError: it cannot be read, is malformed, or has an operator, a constant or weights in another file
            that are refused.
    """
    with typed_errors(ModelError, f"{path}: not a usable ONNX model"):
        content = read_file(path, _MAX_BYTES)
        if not content:
            raise ValueError("empty file")
        return _check_model(content)


_Message = dict[int, list[int | memoryview]]


def _bytes(value: int | memoryview | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a text or message is expected")
    return memoryview(value)


def _message(content: int | memoryview | bytes) -> _Message:
    """Return the values of each field of a message."""
    message: _Message = defaultdict(list)
    for number, value in fields(_bytes(content)):
        message[number].append(value)
    return message


def _text(values: list[int | memoryview]) -> str:
    """Return the text of a field that occurs at most once."""
    return bytes(_bytes(values[-1])).decode("utf-8") if values else ""


def _check_model(content: bytes) -> dict[str, str]:
    model = _message(content)
    if len(model[7]) != 1:
        raise ValueError("it has no graph")
    if model[20] or model[25]:
        raise ValueError("it has functions or training steps, which pipnet refuses")
    for opset in map(_message, model[8]):
        if _text(opset[1]) not in ("", "ai.onnx"):
            raise ValueError(f"it has operators of {_text(opset[1])!r:.80}, which pipnet refuses")
    graph = _message(model[7][0])
    if len(graph[1]) > _MAX_NODES:
        raise ValueError(f"{len(graph[1])} nodes, more than {_MAX_NODES}")
    if graph[15]:
        raise ValueError("it has sparse constants, which pipnet refuses")
    for tensor in graph[5]:
        _check_tensor(tensor)
    for node in graph[1]:
        _check_node(_message(node))
    pairs = map(_message, model[14])
    return {_text(pair[1]): _text(pair[2]) for pair in pairs}


def _check_node(node: _Message) -> None:
    operator, domain = _text(node[4]), _text(node[7])
    if operator not in OPERATORS or domain not in ("", "ai.onnx"):
        raise ValueError(f"it has the operator {operator!r:.80}, which pipnet refuses")
    for attribute in map(_message, node[5]):
        name = _text(attribute[1])
        if attribute[6] or attribute[11] or attribute[22] or attribute[23]:
            raise ValueError(f"its operator {operator} has a graph or sparse constants, which pipnet refuses")
        for tensor in (*attribute[5], *attribute[10]):
            _check_tensor(tensor)
        limit = _MAX_KERNEL if name in _WINDOWS else _MAX_SIDE
        for value in integers([*attribute[3], *attribute[8]]):
            _check_side(value, limit, f"{name!r:.80} of {operator}")
        if operator == "Constant" and attribute[8]:
            _check_shape(integers(attribute[8]))


def _check_tensor(content: int | memoryview) -> None:
    """Refuse a constant that does not have the size it declares, or is in another file."""
    tensor = _message(content)
    name, kind = f"{_text(tensor[8])!r:.80}", [*integers(tensor[2])][-1:]
    if tensor[13] or any(integers(tensor[14])):
        raise ValueError(f"constant {name} is in another file: save the model as one file")
    shape = [*integers(tensor[1])]
    if min(shape, default=0) < 0 or math.prod(shape) > _MAX_ELEMENTS or len(shape) > 8:
        raise ValueError(f"constant {name} has the shape {shape!s:.80}")
    if not kind or kind[0] not in _ITEM_SIZES:
        raise ValueError(f"constant {name} has no type that networks use")
    size = math.prod(shape) * _ITEM_SIZES[kind[0]]
    raw = sum(len(_bytes(value)) for value in tensor[9])
    # Without raw bytes the values are in typed fields, which the runtimes count.
    is_right = raw == size if tensor[9] else size <= 16 * len(_bytes(content))
    if not is_right:
        raise ValueError(f"constant {name} has {raw} bytes for the shape {shape!s:.80}")
    if kind[0] in (6, 7) and math.prod(shape) <= 16:
        _check_shape(_small_integers(tensor, _ITEM_SIZES[kind[0]]))


def _small_integers(tensor: _Message, item_size: int) -> Iterable[int]:
    """Return the values of a small constant of integers."""
    if not tensor[9]:
        return [*integers(tensor[5]), *integers(tensor[7])]
    raw = b"".join(bytes(_bytes(value)) for value in tensor[9])
    starts = range(0, len(raw), item_size)
    return [int.from_bytes(raw[i : i + item_size], "little", signed=True) for i in starts]


def _check_shape(values: Iterable[int]) -> None:
    """Refuse a constant that makes a very large array if it is a shape."""
    product = 1
    for value in values:
        _check_side(value, _MAX_SIDE, "a constant")
        product *= max(value, 1) if value < _TO_THE_END else 1
    if product > _MAX_CHANGE:
        raise ValueError(f"a shape of {product:,} elements, more than {_MAX_CHANGE:,}")


def _check_side(value: int, limit: int, what: str) -> None:
    if limit < abs(value) < _TO_THE_END:
        raise ValueError(f"{what} is {value}, more than {limit}")
