"""What people of several journeys have: a tiny model in Hugging Face's format, text of two kinds, and a config."""

import json

import jax
import numpy as np

from cptlaw.models import hf, transformer

CFG = transformer.Config(vocab_size=300, d_model=16, layers=1, heads=2, kv_heads=1, d_ff=32, tie_embeddings=False)
STEP = 8 * 32  # tokens
WORDS = {
    "notes": "the patient was seen with fever and a cough and given fluids before the night",
    "law": "the party of the first part shall notify the court of any claim in writing",
}


def llama_folder(path):
    """A model as downloaded: config.json, safetensors, and its byte-level tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    hf.save(path, CFG, transformer.init(jax.random.key(0), CFG))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=CFG.vocab_size, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(WORDS.values(), trainer)
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "add_bos_token": False}))


def texts(folder):
    """A folder of text files, and JSON lines."""
    rng = np.random.default_rng(0)
    (folder / "notes").mkdir()
    for i in range(60):
        (folder / "notes" / f"{i}.txt").write_text(" ".join(rng.choice(WORDS["notes"].split(), 80)))
    rows = [json.dumps({"text": " ".join(rng.choice(WORDS["law"].split(), 80))}) for _ in range(60)]
    (folder / "law.jsonl").write_text("\n".join(rows))


CONFIG = """
STEP = {step}

def get_config():
    return {{
        "name": "law on notes",
        "corpora": {{"notes": "notes", "law": "law.jsonl"}},
        "general": "notes", "domains": ("law",),
        "vocabulary": {{"kind": "file", "path": "model"}},
        "model": {{}}, "sizes": {{"tiny": {{}}}}, "base": None, "init_from": {{"tiny": "model"}},
        "cpt": {{"tokens": 16 * STEP, "peak_lr": 1e-2, "warmup_tokens": STEP}},
        "eval_tokens": (8 * STEP, 16 * STEP), "eval_max_tokens": 500, "validation_share": 0.2,
        "grid": {{"tiny": {{"domain_shares": (0.1, 0.3, 0.5, 0.9)}}}},
        "held_out": {{"size": "tiny", "tokens": 16 * STEP - 1}},
        "seq_len": 32, "batch_size": 8, "eval_batch_size": 8, "workers": 1,
    }}
"""


def practitioner(folder):
    """All of it in a folder, the config naming everything relative to itself."""
    llama_folder(folder / "model")
    texts(folder)
    (folder / "mine.py").write_text(CONFIG.format(step=STEP))
    return folder / "mine.py"
