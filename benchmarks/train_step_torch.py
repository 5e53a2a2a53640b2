"""The other side of train_step.py, in an environment of torch and transformers: one AdamW step for each line read.

    python train_step_torch.py FOLDER TOKENS.npy DTYPE

FOLDER is a model as `transformers` reads it. Every answer is a JSON line: loss, wall and processor seconds.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers


def main(folder: str, tokens_path: str, dtype: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # attention: sdpa
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    tokens = torch.from_numpy(np.load(tokens_path)).long()
    print(json.dumps({"versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}), flush=True)
    for _ in sys.stdin:
        wall, used = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen = {"loss": loss.item(), "wall": time.perf_counter() - wall, "cpu": time.process_time() - used}
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
