# channelcut with TensorRT, on NVIDIA's own base image, which brings TensorRT, CUDA and Python but no torch.
#   docker build -f docker/tensorrt.Dockerfile -t channelcut:tensorrt .
#   docker run --rm --gpus all -v "$PWD:/work" channelcut:tensorrt build out/model.onnx --backend tensorrt --out out/model.engine
FROM nvcr.io/nvidia/tensorrt:25.08-py3
RUN pip install --no-cache-dir torch==2.13.0
WORKDIR /opt/channelcut
COPY docker/requirements.txt ./requirements.txt
RUN pip install --no-cache-dir --requirement requirements.txt 'cuda-bindings>=12.6,<14'
COPY pyproject.toml README.md LICENSE ./
COPY channelcut ./channelcut
RUN pip install --no-cache-dir --no-deps . && useradd --create-home channelcut
USER channelcut
WORKDIR /work
HEALTHCHECK --interval=5m --timeout=60s CMD ["channelcut", "env"]
ENTRYPOINT ["channelcut"]
CMD ["--help"]
