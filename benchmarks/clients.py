"""Clients that people use, against a server that runs: `llm`, `litellm`, `langchain-openai`.

By hand, in an environment that has them (`pip install llm litellm langchain-openai`):

    edgewise serve smollm2
    python benchmarks/clients.py --url http://127.0.0.1:8000/v1 --model smollm2

Each asks twice, whole and streamed, with temperature 0: all four texts of a client must be the
same, and those of all clients; ends with an error where they are not. `llm` takes its model from a
file, as its documentation says (extra-openai-models.yaml).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from claims import finish

QUESTION = "What is the capital of France?"


def with_litellm(url: str, model: str, key: str) -> list[str]:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    import litellm

    asked = {
        "model": f"openai/{model}",
        "api_base": url,
        "api_key": key,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 32,
    }
    whole = litellm.completion(**asked).choices[0].message.content
    parts = litellm.completion(**asked, stream=True)
    return [whole, "".join(part.choices[0].delta.content or "" for part in parts)]


def with_langchain(url: str, model: str, key: str) -> list[str]:
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model=model, base_url=url, api_key=key, temperature=0, max_tokens=32)
    return [chat.invoke(QUESTION).content, "".join(x.content for x in chat.stream(QUESTION))]


def with_llm(url: str, model: str, key: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        about = {"model_id": "served", "model_name": model, "api_base": url}
        # JSON is YAML.
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps([about]))
        command = [sys.executable, "-m", "llm", "-m", "served", "--key", key, "--no-log"]
        options = ["-o", "temperature", "0", "-o", "max_tokens", "32"]
        return [
            subprocess.run(
                [*command, *options, *more, QUESTION],
                env=os.environ | {"LLM_USER_PATH": folder},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            ).stdout.strip("\n")
            for more in (["--no-stream"], [])
        ]


CLIENTS: dict[str, Callable[[str, str, str], list[str]]] = {
    "llm": with_llm,
    "litellm": with_litellm,
    "langchain-openai": with_langchain,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    key = os.environ.get("EDGEWISE_API_KEY", "none")
    said = {name: ask(options.url, options.model, key) for name, ask in CLIENTS.items()}
    for name, texts in said.items():
        print(f"{name:18} {texts[0]!r}")
    alike = {name: len({text.strip() for text in texts}) == 1 for name, texts in said.items()}
    failed = [f"{name} got different texts" for name, same in alike.items() if not same]
    if len({texts[0].strip() for texts in said.values()}) > 1:
        failed.append("clients got different texts")
    finish("clients", {"model": options.model, "clients": list(said)}, failed)


if __name__ == "__main__":
    main()
