# The server as a static binary in an image that holds nothing else: no shell, no
# package manager, no root. Build it with
#
#	docker build --build-arg VERSION=1.2.3 -t connect-prisma .

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags="-s -w" -o /out/server ./cmd/server \
    && mkdir -p /out/state/spool

FROM scratch
ARG VERSION=unreleased
LABEL org.opencontainers.image.title="Connect Prisma" \
      org.opencontainers.image.description="The service between partner apps and Prisma's platform" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/server /server
# What the simulator and the spool of serve keep: mount volumes here. SPOOL_DIR is not
# set, because a spool in the container's own layer would promise too much.
COPY --from=build --chown=65532:65532 /out/state /var/lib/connect-prisma
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/server"]
CMD ["serve"]
