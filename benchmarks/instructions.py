"""Claim: a register of weights takes NEON no more instructions than AVX2.

Instructions that multiply a slice of one tile (as many rows as a register holds numbers, 32
columns) with activations, counted in what the compiler made of it: for a single token from codes as
they lie, and for each of four tokens from codes that are unpacked already. Loads, stores and
addresses included. Needs g++, aarch64-linux-gnu-g++ and their objdump.
`python benchmarks/instructions.py`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "edgewise/kernels/src"
BITS, COLUMNS = (2, 3, 4, 5, 6, 8), 32
COUNTS = ("one_token_a_register", "four_tokens_a_register")
# What is included, the struct, rows of a slice, and the options that the target pragmas stand for.
X86, ARM = ("g++", "objdump"), ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump")
SETS: dict[str, tuple[tuple[str, str], str, int, list[str]]] = {
    "avx2": (X86, "avx2.h", 8, ["-mavx2", "-mfma", "-mf16c"]),
    "avx-vnni": (X86, "avx2.h", 8, ["-mavx2", "-mfma", "-mf16c", "-mavxvnni",
                                    "-DEDGEWISE_DPBUSD=_mm256_dpbusd_avx_epi32"]),
    "neon-dotprod": (ARM, "neon.h", 4, ["-march=armv8.2-a+dotprod"]),
    "neon-i8mm": (ARM, "neon.h", 4, ["-march=armv8.2-a+dotprod+i8mm", "-DEDGEWISE_I8MM"]),
}  # fmt: skip
SOURCE = """
#include "{source}/target.h"
#include "{source}/{header}"
using namespace edgewise;
extern "C" void counted(const uint8_t* codes, const int8_t* x, size_t stride, i32s* out) {{
  i32s sums[1][{tokens}];
  {struct}::dot<{bits}, {laid}, {tokens}, 1>(codes, x, stride, 1, sums);
  for (int b = 0; b < {tokens}; ++b) out[b] = sums[0][b];
}}
"""


def instructions(name: str, bits: int, laid: int, tokens: int) -> int:
    (compiler, objdump), header, _, options = SETS[name]
    struct = "Avx2" if header.startswith("avx2") else "Neon"
    text = SOURCE.format(
        source=SOURCES, header=header, struct=struct, bits=bits, laid=laid, tokens=tokens
    )
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "one.cpp", Path(folder) / "one.o"
        source.write_text(text)
        flags = ["-std=c++17", "-O3", "-w", "-fno-asynchronous-unwind-tables", *options]
        subprocess.run([compiler, *flags, "-c", str(source), "-o", str(binary)], check=True)
        command = [objdump, "-d", "--disassemble=counted", "--no-show-raw-insn", str(binary)]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    body = listing[listing.index("<counted>:") :].splitlines()[1:]
    return sum(line.startswith(" ") and ":" in line for line in body)


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, (_, _, lanes, _) in SETS.items():
        for bits in BITS:
            one, four = instructions(name, bits, bits, 1), instructions(name, bits, 8, 4)
            weights, registers = lanes * COLUMNS, COLUMNS / 4
            rows.append({
                "set": name, "bits": bits, "one_token_a_weight": one / weights,
                "four_tokens_a_weight": four / 4 / weights, "one_token_a_register": one / registers,
                "four_tokens_a_register": four / 4 / registers,
            })  # fmt: skip
            print(
                f"{name:12} {bits} bits: one token {one / registers:5.2f} instructions a register, "
                f"{one / weights:.2f} a weight; each of four {four / 4 / registers:5.2f} and "
                f"{four / 4 / weights:.2f}", flush=True,
            )  # fmt: skip
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True)
    version = compiler.stdout.splitlines()[0]
    print(json.dumps({"benchmark": "instructions", "compiler": version, "rows": rows}))
    most = {(row["bits"], key): row[key] for row in rows if row["set"] == "avx2" for key in COUNTS}
    if any(row[key] > most[row["bits"], key] for row in rows if "neon" in row["set"]
           for key in COUNTS):  # fmt: skip
        sys.exit("the claim does not hold")


if __name__ == "__main__":
    main()
