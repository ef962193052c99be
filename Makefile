# Nothing here is needed: it remembers the long lines.

.PHONY: help test faults lint fuzz bench demo cover

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## Run all tests with the race detector
	go test -race ./...

faults: ## Break real processes, networks and disks, see tests/README.md (as root: all of it)
	go test -race -tags faults ./tests/... ./deploy/...

lint: ## Run the linter and show what the formatter would change
	golangci-lint run
	golangci-lint fmt --diff

fuzz: ## Fuzz every target for a minute (FUZZTIME=5s: shorter)
	.ci/fuzz $(or $(FUZZTIME),60s)

bench: ## Run the benchmarks ten times, as benchstat wants them (BENCH=Pick PKG=./pkg/selector)
	go test -run '^$$' -bench '$(or $(BENCH),.)' -count 10 $(or $(PKG),./...)

demo: ## Show the whole system on one screen
	go run ./cmd/router demo

cover: ## Show which statements of pkg/ the tests reach
	go test -coverpkg=./pkg/... -coverprofile=cover.out ./...
	go tool cover -func=cover.out
