# Build with:
#
#   docker build --build-arg VERSION="$(git describe --tags --always)" -t capstan .
#
# (or podman, or buildah bud). For another architecture add --platform, e.g.
# --platform linux/arm64: the compiler runs natively and cross-compiles.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
# Modules first: they are downloaded again only when they change.
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY internal internal
ARG VERSION=
ARG TARGETOS
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /capstan ./cmd/agent

# CA certificates, a user 65532 and /tmp; no shell and no git: the agent needs neither. It
# writes below /tmp only, so the root file system may be read-only if that is a volume.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /capstan /capstan
LABEL org.opencontainers.image.title="Capstan" \
      org.opencontainers.image.description="GitOps for Cluster API" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 65532:65532
# Metrics; health; webhooks and the status page.
EXPOSE 8080 8081 9292
ENTRYPOINT ["/capstan"]
CMD ["run"]
