# edgefn. Every target works on a fresh Debian 12 with Go, git and make.
# `make demo` shows it at work, `make test` proves it, `make help` lists the rest.

GOARCH   := $(shell go env GOARCH)
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT   := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOLS    := $(CURDIR)/bin/tools
INIT     := functions/sandbox/carried/edgefn-init-$(GOARCH)

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.11.0
GOFUMPT       := mvdan.cc/gofumpt@v0.9.2
NFPM          := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.1.4

export CGO_ENABLED := 0

.PHONY: help build init demo test check fresh bench soak deb setup clean
.DEFAULT_GOAL := build

help:           ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

init:           ## build the edgefn-init that the node carries
	@go build -trimpath -ldflags='-s -w -buildid=' -o $(INIT) ./functions/init

build: init     ## build bin/edgefn, one static binary
	@go build -trimpath -ldflags='$(LDFLAGS)' -o bin/edgefn ./cmd/edgefn

setup:          ## install what tests need, through the system's package manager
	@sh testbed/setup.sh test

demo:           ## a node, two functions and real MQTT messages, in under 3 minutes
	@bash testbed/demo.sh

test: setup build $(TOOLS)/nfpm ## every test
	@sh testbed/test.sh $(TESTFLAGS)

fresh:          ## the README's commands in a minimal Debian 12, as root
	@bash testbed/fresh/run.sh

check: init $(TOOLS)/golangci-lint $(TOOLS)/gofumpt ## formatting, linters, import rules
	@out=$$($(TOOLS)/gofumpt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofumpt -w these files:"; echo "$$out"; exit 1; fi
	@go mod tidy -diff
	@go vet ./...
	@$(TOOLS)/golangci-lint run ./...
	@sh testbed/vuln.sh $(GOVULNCHECK)

bench: setup build $(TOOLS)/nfpm ## ratios within one run, as a table and bench.json
	@go run ./testbed/bench -o bin/bench.json

soak: setup build ## 1,000 faults to a node under load, each event looked for: a table and bin/soak.json; then an hour of packets at random
	@go run ./testbed/settled -faults 1000 -o bin/soak.json $(SOAKFLAGS)
	@go test ./triggers/mqtt/broker -run '^TestSequences$$' -count=1 -timeout 2h -args -sequences 1h

deb: $(TOOLS)/nfpm ## dist/edgefn_VERSION_ARCH.deb for arm64, armhf and amd64
	@go run ./cross/package -nfpm $(TOOLS)/nfpm $(DEBFLAGS)

$(TOOLS)/golangci-lint:
	@echo "building $(GOLANGCI_LINT)"; GOBIN=$(TOOLS) go install $(GOLANGCI_LINT)

$(TOOLS)/gofumpt:
	@GOBIN=$(TOOLS) go install $(GOFUMPT)

$(TOOLS)/nfpm:
	@echo "building $(NFPM)"; GOBIN=$(TOOLS) go install $(NFPM)

clean:          ## remove what was built
	@rm -rf bin dist functions/sandbox/carried/edgefn-init-*
