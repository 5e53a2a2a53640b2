"""Scoring throughput beside transformers + torch, and beside lm-evaluation-harness: same weights, same tokens, one run.

    python -m benchmarks.score --peer-python PATH   # a Python with torch, transformers and lm_eval

A small Llama with random weights scores documents whose lengths are log-normal, as real ones are. Ours packs chunks (at
most --chunk tokens, each with a context of its own); transformers gets the same chunks in padded batches, as they come
and sorted by length, and its nats must agree to 1e-4; the harness's loglikelihood_rolling cuts the same documents into
windows of the same length itself. All float32, warmed up, the best of --rounds. CPU seconds of all threads are
compared, since the wall clock of a shared machine says little.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODEL = {"vocab_size": 8192, "d_model": 384, "layers": 6, "heads": 6, "kv_heads": 2, "d_ff": 1024}


def documents(tokens: int, seed: int = 0) -> list[np.ndarray]:
    """Token ids of documents of mixed length: log-normal, median 200, from 16 to 4,000."""
    rng = np.random.default_rng(seed)
    made: list[np.ndarray] = []
    while sum(map(len, made)) < tokens:
        length = int(np.clip(rng.lognormal(np.log(200), 1.0), 16, 4000))
        made.append(rng.zipf(1.3, length).clip(max=MODEL["vocab_size"] - 1))
    return made


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measured(work, rounds: int) -> tuple[float, float, np.ndarray]:
    """(CPU seconds, wall seconds) of the best of `rounds` calls, and the result of the last."""
    best, found = (np.inf, np.inf), np.empty(0)
    for _ in range(rounds):
        cpu, wall = cpu_seconds(), time.perf_counter()
        found = work()
        best = min(best, (cpu_seconds() - cpu, time.perf_counter() - wall))
    return *best, found


def ours(folder: Path, chunk: int, batch_tokens: int, rounds: int) -> tuple[float, float, np.ndarray]:
    """Nats by document under `scoring.chunks`."""
    import types

    from cptlaw.models import hf
    from cptlaw.models.sharding import Layout, make_mesh
    from cptlaw.scoring import chunks
    from cptlaw.selection import scores

    texts = np.load(folder / "documents.npz")
    made = [texts[name] for name in texts.files]
    store = types.SimpleNamespace(
        tokens=np.concatenate(made),
        offsets=np.concatenate([[0], np.cumsum([len(d) for d in made])]),
        doc_bytes=np.array([4 * len(d) for d in made]),
        ledger={"name": "mixed", "split": "train", "tokens_sha256": ""},
    )
    layout = Layout(make_mesh())
    cfg, params = hf.load(folder / "model", layout)

    def work() -> np.ndarray:
        with tempfile.TemporaryDirectory() as out:
            options = {"chunk": chunk, "model": {}, "layout": layout, "batch_tokens": batch_tokens}
            chunks.score(params, cfg, store, out, **options)
            return scores.read(out).groupby("document")["nats"].sum().to_numpy()

    work()  # compiles
    return measured(work, rounds)


def peer(folder: Path, how: str, chunk: int, batch: int, rounds: int) -> tuple[float, float, np.ndarray]:
    """Nats by document under transformers, `how` being as_they_come, sorted or harness."""
    import torch
    import transformers

    texts = np.load(folder / "documents.npz")
    made = [texts[name] for name in texts.files]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    model(torch.zeros((1, 64), dtype=torch.long))
    pieces = [(d, t[b : b + chunk + 1]) for d, t in enumerate(made) for b in range(0, len(t) - 1, chunk)]
    if how == "harness":
        return measured(_harness(model, made, chunk, batch), rounds)
    if how == "sorted":
        pieces.sort(key=lambda piece: -len(piece[1]))

    @torch.inference_mode()
    def work() -> np.ndarray:
        nats = np.zeros(len(made))
        for first in range(0, len(pieces), batch):
            some = pieces[first : first + batch]
            longest = max(len(t) for _, t in some)
            ids = np.zeros((len(some), longest), np.int64)
            real = np.zeros((len(some), longest), np.int64)
            for row, (_, t) in enumerate(some):
                ids[row, : len(t)], real[row, : len(t)] = t, 1
            ids_BT, real_BT = torch.from_numpy(ids), torch.from_numpy(real)
            logits = model(ids_BT[:, :-1], attention_mask=real_BT[:, :-1], use_cache=False).logits
            nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
            sums = (nll.view(len(some), -1).double() * real_BT[:, 1:]).sum(1).tolist()
            for (d, _), value in zip(some, sums):
                nats[d] += value
        return nats

    return measured(work, rounds)


def _harness(model, made: list[np.ndarray], chunk: int, batch: int):
    """lm-evaluation-harness on the same model; its tokenizer reads ids written as words."""
    import tokenizers
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    words = {str(i): i for i in range(MODEL["vocab_size"])}
    words_only = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    words_only.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words_only, eos_token="1", pad_token="0")
    lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=chunk, batch_size=batch, device="cpu")
    asked = [
        Instance("loglikelihood_rolling", {}, (" ".join(map(str, ids)),), i, metadata=("", i, 1))
        for i, ids in enumerate(made)
    ]
    return lambda: -np.array(lm.loglikelihood_rolling(asked, disable_tqdm=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16, help="chunks of a peer's batch")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="positions of a batch of ours")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--as-peer", nargs=2, metavar=("FOLDER", "HOW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_peer:
        folder, how = Path(args.as_peer[0]), args.as_peer[1]
        cpu, wall, nats = peer(folder, how, args.chunk, args.batch, args.rounds)
        np.savez(folder / f"{how}.npz", cpu=cpu, wall=wall, nats=nats)
        return

    import jax

    from cptlaw.models import hf, transformer

    cfg = transformer.Config(**MODEL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = documents(args.tokens)
        np.savez(folder / "documents.npz", **{f"{i:06}": ids for i, ids in enumerate(made)})
        params = jax.tree.map(lambda x: 2 * x, transformer.init(jax.random.key(0), cfg))
        hf.save(folder / "model", cfg, params, metadata={"max_position_embeddings": 4096})
        tokens = sum(map(len, made)) - len(made)
        flops = transformer.flops_per_token(cfg, 200)["forward"]
        print(f"{len(made)} documents, {tokens:,} targets, {flops / 1e6:.0f} MFLOP a token at the median length")
        cpu, wall, nats = ours(folder, args.chunk, args.batch_tokens, args.rounds)
        print(
            f"{'cptlaw':24} {tokens / cpu:>8,.0f} tokens per CPU second   {tokens / wall:>8,.0f} per second", flush=True
        )
        for how in ("as_they_come", "sorted", "harness") if args.peer_python else ():
            words = [
                arg for arg in sys.argv[1:] if not arg.startswith("--peer-python") and arg != str(args.peer_python)
            ]
            done = subprocess.run([args.peer_python, __file__, *words, "--as-peer", name, how])
            if done.returncode:
                print(f"{how:24} did not run (see above)")
                continue
            found = np.load(folder / f"{how}.npz")
            rate = f"{tokens / found['cpu']:>8,.0f} tokens per CPU second   {tokens / found['wall']:>8,.0f} per second"
            gap = "" if how == "harness" else f"   nats differ by {np.abs(found['nats'] / nats - 1).max():.1e}"
            print(f"{how:24} {rate}   ours {found['cpu'] / cpu:.2f}x{gap}", flush=True)


if __name__ == "__main__":
    main()
