# channelcut with TensorRT, on NVIDIA's own base image.
#   docker build -f docker/tensorrt.Dockerfile -t channelcut:tensorrt .
#   docker run --rm --gpus all -v "$PWD:/work" channelcut:tensorrt build out/model.onnx --backend tensorrt --out out/model.engine
FROM nvcr.io/nvidia/tensorrt:25.08-py3
WORKDIR /opt/channelcut
COPY pyproject.toml README.md LICENSE ./
COPY channelcut ./channelcut
RUN pip install --no-cache-dir . pycuda && useradd --create-home channelcut
USER channelcut
WORKDIR /work
ENTRYPOINT ["channelcut"]
CMD ["--help"]
