VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GOFLAGS := -trimpath -buildvcs=false
export GOFLAGS
export CGO_ENABLED = 0

.PHONY: all setup setup-test build lint test test-quick test-full demo bench soak fuzz proto clean

all: build

setup:
	scripts/setup

setup-test:
	scripts/setup test

build:
	go build -ldflags "-s -w -X main.version=$(VERSION)" -o bin/leeward ./cmd/leeward

lint:
	scripts/lint

# Race detection needs cgo; nothing else does.
test-quick:
	CGO_ENABLED=1 go test -race -short $$(go list ./... | grep -v '/lab$$')

# One package after another: the lab is there once, and two cores are few.
test-full:
	go test -p 1 -timeout 35m ./...

test: setup-test build lint test-quick test-full

demo: setup build
	scripts/demo

bench: build
	scripts/setup bench
	go run ./bench/servers
	go run ./bench/db

soak: setup-test build
	LEEWARD_SOAK=1 go test -p 1 -count 1 -timeout 12h ./...

fuzz:
	scripts/fuzz

proto:
	scripts/proto

clean:
	rm -rf bin .tools demo
