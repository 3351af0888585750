# Images of teqd, each a target:
#   docker build --target server -t teqd-server .
#   docker build --target worker-cpu -t teqd-worker-cpu .
#   docker build --target worker-cuda --build-arg CUDA_BASE=IMAGE -t teqd-worker-cuda .
#   docker build --target worker-gaudi --build-arg GAUDI_BASE=IMAGE -t teqd-worker-gaudi .
#
# DEBIAN decides the versions of all libraries of the first two, which hold nothing else than programs and what these load;
# name it by digest for builds that can be repeated.
# CUDA_BASE and GAUDI_BASE are images made from the same release of Debian that bring LibTorch in TORCH: one with CUDA and
# nvcc, one with Intel's bridge of PyTorch and, in PLUGIN, a shared object that implements
# worker/engine/model/hpu_plugin.h over it. No public image is known to be one, so there is no default that works.
ARG DEBIAN=debian:bookworm-slim
ARG CUDA_BASE=${DEBIAN}
ARG GAUDI_BASE=${DEBIAN}

FROM ${DEBIAN} AS build
WORKDIR /src
COPY deploy/local/install.sh deploy/local/packages.txt deploy/local/
RUN deploy/local/install.sh build image \
    && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DTEQ_BUILD_TESTS=OFF \
    && cmake --build --preset release \
    && strip build/bin/* \
    && deploy/docker/closure.sh /server build/bin/teq-server build/bin/teqctl \
    && deploy/docker/closure.sh /worker build/bin/teq-worker build/bin/teq-sentencepiece

FROM scratch AS server
LABEL org.opencontainers.image.title="teqd server" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /server /
USER 65532:65532
WORKDIR /var/lib/teqd
EXPOSE 8470 8471
ENTRYPOINT ["/usr/local/bin/teq-server"]

# Of Debian's packages that LibTorch pulls in, most files are never loaded: 500 MB instead of 1.2 GB.
FROM scratch AS worker-cpu
LABEL org.opencontainers.image.title="teqd worker, CPU" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /worker /
USER 65532:65532
WORKDIR /var/lib/teqd
EXPOSE 9471
ENTRYPOINT ["/usr/local/bin/teq-worker"]

# The engine is compiled against the base's own LibTorch, so it is built in the base.
FROM ${CUDA_BASE} AS worker-cuda
ARG TORCH=/opt/libtorch
LABEL org.opencontainers.image.title="teqd worker, CUDA" org.opencontainers.image.licenses="Apache-2.0"
RUN test -e "${TORCH}/lib/libtorch_cuda.so" \
    || { echo "worker-cuda: CUDA_BASE has no ${TORCH}/lib/libtorch_cuda.so; name an image with LibTorch for CUDA" >&2; exit 1; }
WORKDIR /src
COPY . .
RUN deploy/local/install.sh build image \
    && cmake --preset release -DTEQ_BUILD_TESTS=OFF -DTorch_DIR="${TORCH}/share/cmake/Torch" \
    && cmake --build --preset release \
    && install -s -t /usr/local/bin build/bin/teq-worker build/bin/teq-sentencepiece \
    && rm -rf /src/* /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/teqd
ENV LD_LIBRARY_PATH=${TORCH}/lib
USER 65532:65532
WORKDIR /var/lib/teqd
EXPOSE 9471
ENTRYPOINT ["/usr/local/bin/teq-worker"]

FROM ${GAUDI_BASE} AS worker-gaudi
ARG TORCH=/opt/libtorch
ARG PLUGIN=/opt/teqd/hpu_plugin.so
LABEL org.opencontainers.image.title="teqd worker, Gaudi" org.opencontainers.image.licenses="Apache-2.0"
RUN test -e "${PLUGIN}" \
    || { echo "worker-gaudi: GAUDI_BASE has no ${PLUGIN}; name an image with a shared object that implements worker/engine/model/hpu_plugin.h, and its path in PLUGIN" >&2; exit 1; }
WORKDIR /src
COPY . .
RUN deploy/local/install.sh build image \
    && cmake --preset release -DTEQ_BUILD_TESTS=OFF -DTorch_DIR="${TORCH}/share/cmake/Torch" \
    && cmake --build --preset release \
    && install -s -t /usr/local/bin build/bin/teq-worker build/bin/teq-sentencepiece \
    && install -d /usr/local/lib/teqd \
    && ln -s "${PLUGIN}" /usr/local/lib/teqd/hpu_plugin.so \
    && rm -rf /src/* /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/teqd
ENV LD_LIBRARY_PATH=${TORCH}/lib
USER 65532:65532
WORKDIR /var/lib/teqd
EXPOSE 9471
ENTRYPOINT ["/usr/local/bin/teq-worker"]
