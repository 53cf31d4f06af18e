"""Embeddings of texts as features: those of the library itself, in PyTorch and in ONNX Runtime."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

import exeunt as ex
from exeunt.live.models_file import read_models

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "plot"]
TEXTS = ["good film", "bad plot", "good " * 90, "", "unknown words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("encoder")
    (made / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(str(made / "vocab.txt")).save_pretrained(made)
    transformers.set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes)
    transformers.BertModel(config).save_pretrained(made)
    return made


@cache
def opened(folder):
    network = transformers.AutoModel.from_pretrained(folder).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), network


def expected(folder, text):
    tokenizer, network = opened(folder)
    with torch.inference_mode():
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        return network(**tokens).last_hidden_state[0].mean(dim=0).numpy()


def test_an_embedding_is_the_mean_over_tokens_also_in_threads(folder):
    encoder = ex.TextEncoder(f"hf:{folder}", max_tokens=64)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder, TEXTS * 4))
    for text, one in zip(TEXTS * 4, found, strict=True):
        np.testing.assert_allclose(one, expected(folder, text), rtol=1e-4, atol=1e-6)


def test_onnx_runtime_runs_an_encoder_too(folder):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    table = np.random.default_rng(0).normal(size=(len(WORDS), 3)).astype(np.float32)
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("Gather", ["table", "input_ids"], ["hidden"])], "encoder",
        [tensor("input_ids", onnx.TensorProto.INT64, ["n", "t"])],
        [tensor("hidden", onnx.TensorProto.FLOAT, ["n", "t", 3])], [onnx.numpy_helper.from_array(table, "table")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    encoder = ex.TextEncoder(f"onnx:{folder}/model.onnx")
    tokens = [WORDS.index(word) for word in ("[CLS]", "good", "film", "[SEP]")]
    np.testing.assert_allclose(encoder("good film"), table[tokens].mean(axis=0), rtol=1e-6)


def test_a_models_file_names_an_encoder_and_tells_it_from_others(folder, tmp_path):
    (tmp_path / "models.yaml").write_text(f"told: {{encoder: 'hf:{folder}', price: 0.00001}}\n")
    model = read_models(tmp_path / "models.yaml")["told"]
    assert isinstance(model, ex.FeatureModel)
    reply = model._reply(model.function("good plot"), 0.0)
    assert len(reply.features) == 8
    other = ex.FeatureModel(ex.TextEncoder(f"hf:{folder}", max_tokens=8), price=0.00001)
    assert model.identity == ex.FeatureModel(ex.TextEncoder(f"hf:{folder}"), price=0.00001).identity
    assert model.identity != other.identity


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bert", "hf:NAME_OR_FOLDER or onnx"),
        ("onnx:nowhere.onnx", "no file nowhere.onnx"),
        ("hf:", "hf:NAME_OR"),
        ("hf:/no/where", "there is no folder /no/where: give hf:FOLDER, or hf:NAME"),
    ],
)
def test_what_is_no_encoder_is_refused(source, message):
    with pytest.raises(ex.InputError, match=message):
        ex.TextEncoder(source)


def test_longer_texts_are_cut_to_what_the_encoder_takes(folder):
    text = " ".join(WORDS[-1:] * 100)
    found = ex.TextEncoder(f"hf:{folder}", max_tokens=1000)(text)
    np.testing.assert_allclose(found, expected(folder, text), rtol=1e-4, atol=1e-6)
    with pytest.raises(ex.InputError, match="takes texts, got int"):
        ex.TextEncoder(f"hf:{folder}")(5)
    with pytest.raises(ex.InputError, match="max_tokens must be at least 1, got 0"):
        ex.TextEncoder(f"hf:{folder}", max_tokens=0)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(ex.InputError, match="cannot be opened"):
        ex.TextEncoder(f"hf:{tmp_path}")("text")
