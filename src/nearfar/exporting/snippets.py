"""The examples of a model card. The tests run them as they stand, beside the folder."""

from __future__ import annotations

_TEXTS = """queries = ["How do I return an item?"]
documents = ["Orders can be sent back within thirty days.", "The heart has four chambers."]
"""

_SENTENCE_TRANSFORMERS = f"""from sentence_transformers import SentenceTransformer

{_TEXTS}
model = SentenceTransformer(FOLDER)
print(model.similarity(model.encode_query(queries), model.encode_document(documents)))
"""

_NEARFAR = f"""from nearfar import embed, load_encoder

{_TEXTS}
encoder = load_encoder(FOLDER)
print(embed(encoder, queries, role="query") @ embed(encoder, documents, role="document").T)
"""

_ONNX_NEARFAR = f"""from nearfar.exporting import OnnxModel

{_TEXTS}
model = OnnxModel(FOLDER)
print(model.encode(queries, role="query") @ model.encode(documents, role="document").T)
"""

_ONNX_ALONE = f"""import numpy as np
import onnxruntime
from tokenizers import Tokenizer

{_TEXTS}
tokenizer = Tokenizer.from_file(FOLDER + "/tokenizer.json")
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(FOLDER + "/onnx/model.onnx")


def encode(texts):
    found = tokenizer.encode_batch(texts, add_special_tokens=SPECIAL)
    ids, mask = (np.array([getattr(text, name) for text in found], np.int64) for name in ("ids", "attention_mask"))
    feeds = {{"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}}
    return session.run(["sentence_embedding"], {{i.name: feeds[i.name] for i in session.get_inputs()}})[0]


print(encode(queries) @ encode(documents).T)
"""


_IMAGES = """from nearfar import embed, load_encoder
from nearfar.types import Picture

encoder = load_encoder(FOLDER)
rows = embed(encoder, [Picture("one.jpg"), Picture("other.jpg")])
print(rows @ rows.T)
"""

_IMAGES_AND_TEXT = """from nearfar import embed, load_encoder
from nearfar.types import Picture

encoder = load_encoder(FOLDER)
pictures = embed(encoder, [Picture("one.jpg"), Picture("other.jpg")])
print(embed(encoder, ["a red bicycle"], role="query") @ pictures.T)
"""


def how_to_load_images(folder: str, *, texts: bool) -> list[str]:
    """Paragraphs with a Python example for an encoder that sees pictures, and reads `texts` too."""
    name = '"' + folder.replace("\\", "/").replace('"', "") + '"'
    return ["With nearfar:", "```python\n" + (_IMAGES_AND_TEXT if texts else _IMAGES).replace("FOLDER", name) + "```"]


def how_to_load(folder: str, onnx: str | None, *, special: bool = True) -> list[str]:
    """Paragraphs with Python examples for a folder of this name; `special`: whether its tokenizer adds [CLS] and such."""
    name = '"' + folder.replace("\\", "/").replace('"', "") + '"'

    def code(text: str) -> str:
        return "```python\n" + text.replace("FOLDER", name).replace("SPECIAL", str(special)) + "```"

    if onnx is None:
        return ["With sentence-transformers:", code(_SENTENCE_TRANSFORMERS), "With nearfar:", code(_NEARFAR)]
    return [
        "With nearfar (no torch is loaded):",
        code(_ONNX_NEARFAR),
        "With onnxruntime alone (prompts, if the model has any, are yours to put before the texts):",
        code(_ONNX_ALONE),
        *(
            [
                'sentence-transformers finds the graph where it is (`SentenceTransformer(FOLDER, backend="onnx")`; it needs `optimum`).'
            ]
            if special
            else []
        ),
    ]
