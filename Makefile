# Every task of this project. `make help` lists them.

GO            ?= go
LINT_VERSION  := 2.15.0
LINT          := bin/golangci-lint-$(LINT_VERSION)
CONTRACT_LINT := .ci/contract-lint/node_modules/.package-lock.json
# Packages under test, and further flags for go test: make test PKG=./internal/prisma/... TESTFLAGS=-v
PKG           ?= ./...
TESTFLAGS     ?=
# Flags for dev: make dev ARGS='--data-dir /tmp/demo --listen 127.0.0.1:9080'
ARGS          ?=

.DEFAULT_GOAL := help
.PHONY: help dev test drill model screenshots lint fmt generate build tools contract-lint compose-check clean

help: ## List these tasks.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## Run everything on this machine: Postgres, Prisma simulator, service, sample app.
	@[ -n "$$DATABASE_URL" ] || .ci/packages postgres
	@$(GO) build -o bin/server ./cmd/server
	@exec bin/server dev $(ARGS)

# -count=1: some tests run the real binary, which go test's cache knows nothing of.
# One Postgres serves all packages of the run. Two packages at a time: each brings
# processes of its own.
test: ## Run every test with the race detector, with what they need installed first.
	@.ci/packages postgres pgbouncer nginx browser compiler node tools
	$(GO) build -o bin/withpg ./internal/pgtest/withpg
	bin/withpg -- $(GO) test -race -count=1 -p 2 -timeout 15m $(TESTFLAGS) $(PKG)

# docs/drill.md says what it does. make drill QUICK=1 takes about three minutes; ARGS are
# its flags: make drill ARGS='--only kills --kills 10'
drill: ## Break a running installation on purpose and count what that cost; QUICK=1 for a short one.
	@.ci/packages postgres
	@$(GO) build -o bin/server ./cmd/server
	@$(GO) build -o bin/drill ./cmd/drill
	@exec bin/drill $(if $(QUICK),--quick) $(ARGS)

screenshots: ## Write a picture of every page, phone and desktop, to screenshots/.
	@mkdir -p screenshots
	@$(MAKE) --no-print-directory test PKG=./internal/processtest/browser TESTFLAGS='-run TestBrowser' SCREENSHOTS=$(CURDIR)/screenshots

# Without the race detector, with which the tests play fewer.
model: ## Play 100,000 random schedules of the refresh's rules, and find the mistakes planted in them.
	$(GO) test -count=1 -v -timeout 30m -run '^TestModel' ./internal/prisma

lint: $(LINT) ## Run the linters, and vet for macOS too.
	$(LINT) run ./...
	GOOS=darwin GOARCH=arm64 $(GO) vet ./...

fmt: $(LINT) ## Format the code as the linters want it.
	$(LINT) fmt ./...

generate: ## Write the generated code anew: the Management API client, and both sides of api/openapi.yaml.
	$(GO) generate ./...

build: ## Build the server into bin/, static and without paths of this machine.
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/server ./cmd/server

tools: $(LINT) ## Build the linter and install what tests and compose-check need.
	@.ci/packages postgres pgbouncer nginx browser compiler node tools compose

contract-lint: $(CONTRACT_LINT) ## Lint the contract of the API, api/openapi.yaml.
	@node .ci/contract-lint/lint.mjs api/openapi.yaml

compose-check: ## Check the compose file, with the simulator's profile and without.
	@.ci/packages compose
	docker-compose --env-file deploy/.env.example config --quiet
	docker-compose --env-file deploy/.env.example --profile simulator config --quiet

clean: ## Remove what the tasks built. The data of dev stays in .dev.
	rm -rf bin

# The version is part of the name, so that a new pin builds a new linter.
$(LINT):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(LINT_VERSION)
	mv bin/golangci-lint $@

$(CONTRACT_LINT): .ci/contract-lint/package-lock.json
	@.ci/packages node
	npm ci --prefix .ci/contract-lint --ignore-scripts --no-audit --no-fund
	@touch $@
