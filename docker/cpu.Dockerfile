# channelcut without a GPU: prune, prove, export, time with ONNX Runtime, build TensorRT-RTX engines ahead of time.
#   docker build -f docker/cpu.Dockerfile -t channelcut:cpu .
#   docker run --rm -v "$PWD:/work" channelcut:cpu compress model.py:build --input 1x3x640x640 --macs 0.5 --out out
FROM python:3.12-slim-bookworm
RUN pip install --no-cache-dir torch==2.13.0
WORKDIR /opt/channelcut
COPY pyproject.toml README.md LICENSE ./
COPY channelcut ./channelcut
RUN pip install --no-cache-dir '.[rtx]' && useradd --create-home --uid 1000 channelcut
USER channelcut
WORKDIR /work
ENTRYPOINT ["channelcut"]
CMD ["--help"]
