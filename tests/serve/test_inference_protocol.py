"""The Open Inference Protocol, spoken by the client of Triton, and by hand where it would not say what is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_server import encoded, in_base64, made_images, prepared

from exeunt.serve import request_bodies as bodies
from exeunt.serve.prediction import ANSWER_TYPES

MODEL = "pixels"
INFER = f"/v2/models/{MODEL}/infer"
BINARY = "inference-header-content-length"
N = 2**40


@pytest.fixture(scope="module")
def triton(server):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(f"127.0.0.1:{server.port}") as opened:
        yield opened


def given(array, datatype, *, binary):
    from tritonclient.http import InferInput

    tensor = InferInput("image", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health_and_metadata(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL)
    assert triton.is_model_ready(MODEL, "1")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    for version in ("", "1"):
        about = triton.get_model_metadata(MODEL, version)
        assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
        assert [one["name"] for one in about["outputs"]] == list(ANSWER_TYPES)


@pytest.mark.parametrize("back_in_binary", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["UINT8", "FP32", "BYTES"])
def test_tensors_in_json_and_in_binary(triton, client, kind, binary, back_in_binary):
    from tritonclient.http import InferRequestedOutput

    pixels = made_images(20, seed=1)
    wanted = client.post("/predict", json={"images": in_base64(pixels), "budget": "60%"}).json()["answers"]
    images = np.array([encoded(one) for one in pixels] if binary else in_base64(pixels), dtype=object)
    array = {"UINT8": pixels, "FP32": prepared(pixels), "BYTES": images}[kind]
    outputs = [InferRequestedOutput(name, binary_data=back_in_binary) for name in ANSWER_TYPES]
    options = {"outputs": outputs, "request_id": "7", "parameters": {"budget": "60%"}}
    found = triton.infer(MODEL, [given(array, kind, binary=binary)], **options)
    assert found.get_response()["id"] == "7"
    assert found.get_response()["parameters"] == {"unit": "MACs"}
    for name in ANSWER_TYPES:
        values = [one.decode() if isinstance(one, bytes) else one for one in found.as_numpy(name).tolist()]
        if kind == "FP32" and name in ("exit", "cost", "confidence"):
            continue  # keys, which break ties, are of what was sent
        assert values == [one[name] or ("" if name == "error" else one[name]) for one in wanted], name


def test_all_outputs_without_asking_and_a_timeout(triton, server):
    pixels = made_images(3, seed=2)
    tensor = given(pixels, "UINT8", binary=True)
    found = triton.infer(MODEL, [tensor], model_version="1", timeout=1)  # microsecond
    assert found.as_numpy("expired").tolist() == [True] * 3
    assert found.as_numpy("label").tolist() == [-1] * 3
    assert b"deadline" in found.as_numpy("error")[0]


def test_an_input_that_is_not_finite_is_its_rows_error(triton):
    values = prepared(made_images(3, seed=3))
    values[1, 0, 0, 0] = np.nan
    found = triton.infer(MODEL, [given(values, "FP32", binary=True)])
    assert (found.as_numpy("label") >= 0).tolist() == [True, False, True]
    values[1] = 200.0  # pixels that nobody has prepared
    found = triton.infer(MODEL, [given(values, "FP32", binary=True)])
    assert b"prepared images" in found.as_numpy("error")[1]
    assert (found.as_numpy("label") >= 0).tolist() == [True, False, True]


def test_other_models_and_outputs(triton):
    from tritonclient.http import InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    tensor = given(made_images(1), "UINT8", binary=True)
    with pytest.raises(InferenceServerException, match="no such model here: there is pixels, version 1"):
        triton.infer("other", [tensor])
    with pytest.raises(InferenceServerException, match="no such model"):
        triton.infer(MODEL, [tensor], model_version="2")
    with pytest.raises(InferenceServerException, match="no output 'logits': choose of label"):
        triton.infer(MODEL, [tensor], outputs=[InferRequestedOutput("logits")])


def output(found, name):
    """The values of an output of an answer in JSON."""
    assert found.status_code == 200, found.text
    return next(one["data"] for one in found.json()["outputs"] if one["name"] == name)


def refused(client, message, content=None, length=None, **request):
    """Whether a request is refused with this message. `content`: of these bytes, and `length` of them are JSON."""
    sent = {"json": request} if content is None else {"content": content, "headers": {BINARY: str(length)}}
    found = client.post(INFER, **sent)
    assert (found.status_code, message in found.json()["error"]) == (422, True), found.text


def tensor_of(**changes):
    return {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [0] * 192} | changes


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "give one input: Expected `array` of length 1"),
        *((wrong, "give one input: Expected `array`, got") for wrong in ({}, "image", None)),
        *((wrong, "inputs.0") for wrong in ([{"name": "image"}], [tensor_of(shape=3)])),
        ([tensor_of(name="text")], "called 'image', got 'text'"),
        ([tensor_of(datatype="INT3")], "must be of type"),
        ([tensor_of(shape=[])], "have a shape"),
        ([tensor_of(shape=[-1, 8, 8, 3])], "have a shape"),
        ([tensor_of(shape=[1] * 9)], "shape"),
        ([tensor_of(data=[300] * 192)], "do not make a tensor"),
        ([tensor_of(data=[0.5] * 192)], "tensor UINT8 [1, 8, 8, 3]: data: Expected `int`, got `float`"),
        ([tensor_of(data=[0] * 193)], "192 numbers are wanted, got 193"),
        ([tensor_of(data=None)], "do not make a tensor"),
        ([tensor_of(shape=[1, 192])], "does not take UINT8"),
        ([tensor_of(datatype="INT64")], "does not take INT64"),
        ([tensor_of(datatype="FP32")], r"must have the shape (n, 3, 8, 8), got (1, 8, 8, 3)"),
        ([tensor_of(datatype="FP32", shape=[1, 3, 4, 16])], "got (1, 3, 4, 16)"),
        ([tensor_of(shape=[0, 8, 8, 3], data=[])], "1 to"),
        ([tensor_of(parameters={"binary_data_size": 10})], "10 bytes, and 0 came"),
    ],
)
def test_what_is_wrong_is_said(client, inputs, message):
    refused(client, message, inputs=inputs)


@pytest.mark.parametrize(
    ("changes", "size", "rest", "message"),
    [
        ({}, 192, bytes(191), "192 bytes, and 191 came"),
        ({}, 191, bytes(191), "has 192 bytes, got 191"),
        ({"datatype": "BYTES", "shape": [2]}, 8, b"\x01\0\0\0a\0\0\0", "1 elements"),
        ({"datatype": "BYTES", "shape": [1]}, 3, b"\x01\0\0", "at least"),
        ({"datatype": "BYTES", "shape": [1]}, 5, b"\x09\0\0\0a", "end at"),
        ({"datatype": "BYTES", "shape": [2**62, 4]}, 0, b"", "1 to 65536"),
        ({"datatype": "BYTES", "shape": [9]}, 0, b"", "elements"),
    ],
)
def test_binary_tensors_that_do_not_fit(client, changes, size, rest, message):
    tensor = tensor_of(parameters={"binary_data_size": size}, **changes)
    head = json.dumps({"inputs": [tensor]}).encode()
    refused(client, message, head + rest, len(head))


def test_one_header_before_other_bytes_is_read_anew_for_each(client):
    """What was read of a header is kept, with its mistakes."""
    pixels = made_images(6, seed=4)
    each = client.post("/predict", json={"images": in_base64(pixels)}).json()["answers"]
    tensor = tensor_of(shape=[1, *pixels.shape[1:]], parameters={"binary_data_size": pixels[0].nbytes})
    del tensor["data"]
    for outputs, status in (([], 200), ([{"name": "logits"}], 422)):
        head = json.dumps({"inputs": [tensor]} | ({"outputs": outputs} if outputs else {})).encode()
        for one, wanted in zip(pixels, each, strict=True):
            found = client.post(INFER, content=head + one.tobytes(), headers={BINARY: str(len(head))})
            assert found.status_code == status
            if status == 200:
                for name in ("label", "confidence"):
                    assert output(found, name) == [wanted[name]]


@pytest.fixture
def made_tensors(monkeypatch):
    """Notes each tensor that is made of a request."""
    made = []
    for name in ("tensor_from_bytes", "tensor_from_json"):
        monkeypatch.setattr(bodies, name, lambda *_: made.append(1))
    return made


@pytest.mark.parametrize(
    ("shape", "datatype", "message"),
    [
        # Rows without content, any number of which comes in no bytes, would fill the memory.
        ([N, 0, 0, 3], "UINT8", "have a shape"),
        ([N, 1, 1, 3], "UINT8", f"1 to 65536 inputs, got {N}"),
        ([1, N, 0], "BYTES", "have a shape"),
        ([N, 0], "BYTES", "have a shape"),
        # A shape is a few bytes, and may stand for any memory.
        ([1, 10**7], "BYTES", "does not take BYTES"),
        ([1, 8 * 10**6], "FP64", "does not take FP64"),
        ([1, 8 * 10**6], "FP32", "must have the shape"),
        ([1, 10**9, 10**9, 3], "UINT8", "does not take UINT8"),
        ([1, 10**3000, 10**3000], "UINT8", "less than"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_what_is_not_taken_is_not_made(made_tensors, client, shape, datatype, message, binary):
    size = {"parameters": {"binary_data_size": 0}} if binary else {"data": [["a"]] if shape[0] == 1 else []}
    tensor = {"name": "image", "shape": shape, "datatype": datatype} | size
    head = json.dumps({"inputs": [tensor]}).encode()
    refused(client, message, head, len(head))
    refused(client, message, inputs=[tensor])
    assert made_tensors == []


def test_headers_that_do_not_fit(client):
    body = json.dumps({"inputs": [tensor_of()]}).encode()
    lengths = {"-3": 400, "5": 422, str(10**20): 200, "1" * 5000: 400, "１２": 400}
    for length, status in lengths.items():
        assert client.post(INFER, content=body, headers={BINARY: length.encode()}).status_code == status
    for path in (INFER, "/predict", "/reload"):
        assert client.post(path, content=body, headers={"content-encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize(
    ("parameters", "expires"),
    [
        ({"timeout": 1}, True), ({"timeout": True}, False), ({"timeout": 10**400}, False), ({"timeout": -1}, False),
        ({"timeout": 1, "deadline_ms": 1e6}, False), ({"timeout": "1"}, False), ({"timeout": 0}, False),
    ],
)  # fmt: skip
def test_timeouts_are_whole_numbers_of_microseconds(client, parameters, expires):
    """As Triton's clients send them; any other value is none."""
    text = json.dumps({"inputs": [tensor_of()], "parameters": parameters})
    found = client.post(INFER, content=text)
    assert output(found, "expired") == [expires]


def test_texts_that_would_be_large_beside_the_tensor(client):
    refused(client, "beside the inputs may have at most", inputs=[tensor_of()], id="x" * 100_000)
    refused(client, "at most 100,000 bytes", inputs=[tensor_of()], parameters={"a": [[]] * 40_000})


def test_an_output_is_asked_for_once(client):
    message = "an output may be asked for once"
    refused(client, message, inputs=[tensor_of()], outputs=[{"name": "error"}] * 2000)
