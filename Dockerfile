# Image of the web app. The build downloads everything; a container needs no network.
#
#   docker build -t verbspace .
#   docker run --rm --network none verbspace --help   # list the options
#   docker run --rm -p 127.0.0.1:7860:7860 verbspace
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/runs/mine:/data/run:ro" -v "$PWD/index:/data/index:ro" \
#       verbspace /data/run --index /data/index
#
# With a GPU: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 …, docker run --gpus all …
FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/verbspace
ENV PATH=/opt/verbspace/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# torch is installed first and from its own index: it is the largest layer and changes least often.
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt '.[app,search]'

FROM python:3.11-slim
COPY --from=build /opt/verbspace /opt/verbspace
# Disable requests to the Hugging Face hub, and telemetry.
ENV PATH=/opt/verbspace/bin:$PATH HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 GRADIO_ANALYTICS_ENABLED=False \
    PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --system --no-create-home verbspace
USER verbspace
EXPOSE 7860
HEALTHCHECK --start-period=60s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/').close()"]
# The app listens on all interfaces of the container. `docker run -p 127.0.0.1:7860:7860` limits it to this machine.
ENTRYPOINT ["verbspace", "app", "--host", "0.0.0.0"]
CMD ["--encoder", "playground", "--concepts", "playground"]
