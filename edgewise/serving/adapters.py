"""Adapters by name: which one a request means, and those that come and go while the server runs, by
the paths and bodies that vLLM's users know."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from edgewise.adapters.files import CONFIG, EXITS, OURS, WEIGHTS
from edgewise.adapters.served import Adapter, open_adapter
from edgewise.errors import DeviceError, InputError
from edgewise.hosting import Host
from edgewise.models.config import DecoderConfig
from edgewise.opening.adapters import check_adapter_name
from edgewise.serving.errors import Refusal
from edgewise.serving.schema import Body
from edgewise.specs import Vote

SWAP_SECONDS = 120.0


class LoadBody(Body):
    """`load_inplace`: in place of what has the name."""

    lora_name: str
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False


class UnloadBody(Body):
    lora_name: str


@dataclass(frozen=True, slots=True)
class AdapterShelf:
    """The folder that adapters may come from while a server runs, None for none; the model that
    they must be for, by its layers' `digest`; and how exits of windows vote."""

    folder: Path | None
    config: DecoderConfig
    digest: str
    vote: Vote = Vote.CONFIDENCE

    def open(self, path: str) -> Adapter:
        """Of a folder in the folder. Raises Refusal for any other, links out of it included, and
        InputError."""
        if self.folder is None:
            raise Refusal(403, "no adapters come from files here: start with --adapters-from")
        root = self.folder.resolve()
        asked = root / path
        parts = [asked, *(asked / name for name in (CONFIG, WEIGHTS, OURS, EXITS))]
        if "\0" in path or not all(part.resolve().is_relative_to(root) for part in parts):
            raise Refusal(403, "adapters come from the folder of --adapters-from only")
        return open_adapter(asked, self.config, self.digest, self.vote)


def adapter_of(asked: str, base: str, names: Mapping[str, int]) -> str:
    """The adapter that a request means by its `model`, "" for none: BASE:NAME. Raises Refusal."""
    if asked in ("", base):
        return ""
    name = asked.removeprefix(f"{base}:")
    if name == asked or name not in names:
        others = "".join(f", '{base}:{other}'" for other in sorted(names))
        raise Refusal(404, f"there is no model '{asked}' here, but '{base}'{others}",
                      "model_not_found")  # fmt: skip
    return name


def add_adapters(app: FastAPI, host: Host, shelf: AdapterShelf) -> None:
    opening = asyncio.Lock()  # one at a time is in memory

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadBody) -> Response:
        try:
            name = check_adapter_name(body.lora_name)
            async with opening:
                if name in host.swaps.names and not body.load_inplace:
                    raise Refusal(400, f"there is an adapter '{name}': load_inplace replaces it")
                adapter = await asyncio.to_thread(shelf.open, body.lora_path)
                await _swap(host, name, adapter)
        except InputError as error:
            raise Refusal(400, str(error)) from None
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadBody) -> Response:
        try:
            await _swap(host, body.lora_name, None)
        except InputError as error:
            raise Refusal(404, str(error)) from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _swap(host: Host, name: str, adapter: Adapter | None) -> None:
    """Raises Refusal and InputError."""
    done = asyncio.wrap_future(host.swaps.ask(name, adapter))
    try:
        await asyncio.wait_for(asyncio.shield(done), SWAP_SECONDS)
    except TimeoutError:
        raise Refusal(503, f"not done within {SWAP_SECONDS:g} s; it may be later") from None
    except DeviceError as error:
        raise Refusal(503, str(error)) from None
