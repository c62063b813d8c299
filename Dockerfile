# mantissa in an image: `docker build -t mantissa .`, then the quickstart's run, and one of your own in this folder:
#   docker run --rm -w /usr/share/mantissa mantissa trainer --config configs/grpo_fp16.yaml run.output_dir=/tmp/first
#   docker run --rm -v "$PWD:/work" mantissa trainer --config my_task.yaml
# For GPUs, with CUDA's own images (and `docker run --gpus all`):
#   docker build -t mantissa --build-arg BUILD_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu24.04 \
#     --build-arg RUN_IMAGE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 .
# Both images must be of the same distribution: the package depends on its libraries by name.
ARG BUILD_IMAGE=debian:12
ARG RUN_IMAGE=debian:12

FROM ${BUILD_IMAGE} AS build
COPY . /src
WORKDIR /src
RUN tools/setup.sh && apt-get install -y --no-install-recommends dpkg-dev file && rm -rf /var/lib/apt/lists/*
RUN PATH="$PWD/.deps/venv/bin:$PATH" && cmake --preset release -DMANTISSA_TESTS=OFF && cmake --build --preset release && \
    cd build && cpack -G DEB && mv mantissa_*.deb /mantissa.deb

FROM ${RUN_IMAGE}
COPY --from=build /mantissa.deb /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends /tmp/mantissa.deb python3 && \
    rm -rf /tmp/mantissa.deb /var/lib/apt/lists/*
WORKDIR /work
ENTRYPOINT ["mantissa"]
