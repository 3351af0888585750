# Images of teqd:
#   docker build --target server -t teqd-server .
#   docker build --target worker -t teqd-worker .
# Debian's release decides the versions of all libraries, so both stages must use the same.
ARG DEBIAN=debian:bookworm-slim

FROM ${DEBIAN} AS build
WORKDIR /src
COPY deploy/local/install.sh deploy/local/packages.txt deploy/local/
RUN deploy/local/install.sh build && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DTEQ_BUILD_TESTS=OFF \
    && cmake --build --preset release \
    && strip build/bin/* \
    && deploy/docker/runtime_packages.sh build/bin/teq-server build/bin/teqctl > build/server.packages \
    && deploy/docker/runtime_packages.sh build/bin/teq-worker build/bin/teq-sentencepiece > build/worker.packages

FROM ${DEBIAN} AS server
COPY --from=build /src/build/server.packages /usr/share/teqd/packages
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive xargs -a /usr/share/teqd/packages \
       apt-get install -q -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/teqd
COPY --from=build /src/build/bin/teq-server /src/build/bin/teqctl /usr/local/bin/
USER 65532:65532
WORKDIR /var/lib/teqd
EXPOSE 8470 8471
ENTRYPOINT ["teq-server"]

FROM ${DEBIAN} AS worker
COPY --from=build /src/build/worker.packages /usr/share/teqd/packages
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive xargs -a /usr/share/teqd/packages \
       apt-get install -q -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 /var/lib/teqd
COPY --from=build /src/build/bin/teq-worker /src/build/bin/teq-sentencepiece /usr/local/bin/
USER 65532:65532
WORKDIR /var/lib/teqd
ENTRYPOINT ["teq-worker"]
