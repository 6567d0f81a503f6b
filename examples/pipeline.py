"""Run a plan of your own across three processes on this machine, and stream the answer."""

from edgewise.cluster_files import load_cluster
from edgewise.demo import CLUSTER_FILE
from edgewise.models.checkpoint import open_checkpoint
from edgewise.models.tokenizer import load_tokenizer
from edgewise.plans import Plan, Stage
from edgewise.runtime.engine import Request, stream
from edgewise.runtime.local import open_engine
from edgewise.specs import Workload

cluster = load_cluster(CLUSTER_FILE)
tokenizer = load_tokenizer("demo")
spec = open_checkpoint("demo").spec
stages = (
    Stage("laptop", 0, 5, ("fp32",) * 5),
    Stage("jetson", 5, 10, ("fp32",) * 5),
    Stage("pi", 10, 14, ("fp32",) * 4),
)
plan = Plan(spec.name, spec.digest, spec.num_layers, stages)
prompt = (
    "Parking lot 37 has 12 free places.\nHow many free places does parking lot 37 have?\nAnswer:"
)
request = Request(tuple(tokenizer.encode(prompt)), max_tokens=24, stop_ids=tokenizer.stop_ids)

engine = open_engine("demo", plan, cluster, Workload(len(request.prompt), 24), spec=spec)
try:
    print(tokenizer.decode([token.id for token in stream(engine, request)]))
finally:
    engine.close()
