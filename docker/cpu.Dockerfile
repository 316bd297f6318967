# channelcut without a GPU: prune, prove, export, time with ONNX Runtime, build TensorRT-RTX engines ahead of time.
#   docker build -f docker/cpu.Dockerfile -t channelcut:cpu .
#   docker run --rm -v "$PWD:/work" channelcut:cpu compress model.py:build --input 1x3x640x640 --macs 0.5 --out out
FROM python:3.12.13-slim-bookworm@sha256:d50fb7611f86d04a3b0471b46d7557818d88983fc3136726336b2a4c657aa30b
# PyTorch's own index has the build without CUDA, a tenth of the size of the usual one.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0
WORKDIR /opt/channelcut
COPY docker/requirements.txt ./requirements.txt
RUN pip install --no-cache-dir --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY channelcut ./channelcut
RUN pip install --no-cache-dir --no-deps . && useradd --create-home --uid 1000 channelcut
USER 1000
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=60s CMD ["channelcut", "env"]
ENTRYPOINT ["channelcut"]
CMD ["--help"]
