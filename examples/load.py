"""Load a model over three emulated devices, and ask it something."""

import edgewise
from edgewise.demo import CLUSTER_FILE

CONTEXT = "Parking lot 37 has 12 free places."

with edgewise.load("demo", cluster=CLUSTER_FILE, new_tokens=64, prompt_tokens=64) as model:
    print(*model.plan.stages, sep="\n")
    print(model.generate(f"{CONTEXT}\nHow many free places does parking lot 37 have?"))
    for piece in model.stream(f"{CONTEXT}\nWhich parking lot has free places?", max_tokens=20):
        print(piece, end="", flush=True)
    print()
