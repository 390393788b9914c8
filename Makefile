# The targets of this project. `make help` lists them.
#
# Needs Go, git and make; nothing else. Programs that tests run are built from the
# pinned list test/tools.txt into .tools/bin. What `make check`, `make drill`, `make e2e-v1`,
# `make e2e-trust`, `make e2e-archive` and `make e2e-outage` want beyond that (a C compiler,
# protoc, promtool, MariaDB, Node, Python with cryptography, OpenSSL) is skipped with a notice
# where it is missing, but never under CI=true.

GO  ?= go
BIN := .tools/bin
export CGO_ENABLED := 0

# skip explains, in a recipe, why it does nothing; under CI it fails.
skip = echo "$@: skipped: $(1)"; [ "$$CI" != true ] || { echo "$@: must not be skipped under CI" >&2; exit 1; }

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build ./understudy
	$(GO) build -o understudy ./cmd/understudy

.PHONY: demo
demo: ## show the main job: mirror a real Rekor v2 log, kill it, prove its entries
	@$(GO) build -buildvcs=false -o $(BIN)/demo ./test/demo
	@exec $(BIN)/demo

.PHONY: test
test: peers ## run all tests, with real servers
	$(GO) test -timeout 20m ./...

.PHONY: peers
peers: # beforehand, so that no test's time limit has to cover it
	@$(GO) run ./test/tools rekor-tiles tessera-fsck
	@$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy

# Of the programs that it builds, Trillian, Rekor and cosign take minutes each.
.PHONY: e2e-v1
e2e-v1: ## real clients of Rekor v1 against a real Rekor v1, and a mirror alone (needs MariaDB)
	@if command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ]; then \
		$(GO) run ./test/tools rekor-server rekor-cli trillian-server trillian-signer trillian-createtree cosign && \
		$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy && \
		UNDERSTUDY_E2E_V1=1 $(GO) test -count=1 -timeout 15m ./test/e2ev1 && \
		UNDERSTUDY_E2E_V1=1 $(GO) test -count=1 -timeout 5m -run TestRealV1 ./mirror/reconcile; \
	else $(call skip,there is no mariadbd (Debian: mariadb-server-core)); fi

.PHONY: e2e-trust
e2e-trust: ## real clients that take Sigstore's trust material from a mirror alone
	@command -v node >/dev/null || { $(call skip,sigstore-js: there is no node (Debian: nodejs)); }
	$(GO) run ./test/tools cosign rekor-tiles
	cd test/policycontroller && GOFLAGS=-mod=mod $(GO) build -buildvcs=false -ldflags='-s -w' -o ../../$(BIN)/policycontroller .
	$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy
	$(GO) build -buildvcs=false -tags kms -o $(BIN)/understudy-kms ./cmd/understudy
	UNDERSTUDY_E2E_TRUST=1 $(GO) test -count=1 -timeout 10m ./test/e2etrust

.PHONY: e2e-archive
e2e-archive: ## the witness and the archive with other people's programs: witnesses, S3, time-stamps, a second verifier
	@if python3 -c 'import cryptography' 2>/dev/null; then \
		$(GO) run ./test/tools omniwitness litewitness tessera-oneshot versitygw timestamp-server && \
		$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy && \
		(cd test/evidence && python3 -B -m unittest -q test_verify) && \
		UNDERSTUDY_E2E_ARCHIVE=1 $(GO) test -count=1 -timeout 15m ./test/e2earchive; \
	else $(call skip,there is no python3 with cryptography (Debian: python3-cryptography)); fi

# With UNDERSTUDY_E2E_LOG=real the real servers (which need MariaDB) stand in for understudy;
# UNDERSTUDY_KILLS says how often the log is killed.
.PHONY: e2e-log
e2e-log: ## real clients write to a private log: cosign, rekor-cli, rekor-tiles, sigstore-go, witnesses; and kill -9
	$(GO) run ./test/tools cosign rekor-cli rekor-tiles timestamp-server omniwitness litewitness
	$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy
	$(GO) build -buildvcs=false -tags kms -o $(BIN)/understudy-kms ./cmd/understudy
	UNDERSTUDY_E2E_LOG=$${UNDERSTUDY_E2E_LOG:-1} $(GO) test -count=1 -timeout 15m ./test/e2elog

.PHONY: e2e-outage
e2e-outage: ## the public logs hang, die, fork and come back, while real clients verify and sign (needs MariaDB)
	@if command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ]; then \
		$(GO) run ./test/tools rekor-server rekor-cli trillian-server trillian-signer trillian-createtree rekor-tiles cosign && \
		$(GO) build -buildvcs=false -o $(BIN)/understudy ./cmd/understudy && \
		UNDERSTUDY_E2E_OUTAGE=1 $(GO) test -count=1 -timeout 15m -parallel 3 ./test/e2eoutage; \
	else $(call skip,there is no mariadbd (Debian: mariadb-server-core)); fi

.PHONY: drill
drill: ## tell an outage of the public log, from its first second to its report (needs MariaDB)
	@if command -v mariadbd >/dev/null || [ -x /usr/sbin/mariadbd ]; then \
		$(GO) run ./test/tools rekor-server rekor-cli trillian-server trillian-signer trillian-createtree rekor-tiles cosign && \
		$(GO) build -buildvcs=false -o $(BIN)/drillstory ./test/drillstory && exec $(BIN)/drillstory; \
	else $(call skip,there is no mariadbd (Debian: mariadb-server-core)); fi

.PHONY: bench
bench: ## measure, side by side with Tessera, rekor-tiles and, if MariaDB is there, Rekor v1
	$(GO) run ./test/bench

.PHONY: check
check: test lint ## everything that must hold before a commit

.PHONY: lint
lint: format vet staticcheck govulncheck imports generated rules race ## check without the plain test run

.PHONY: format
format: ## compare with gofmt
	@files=$$(find . -name '*.go' -not -path './.tools/*' | xargs gofmt -l); \
	[ -z "$$files" ] || { echo "format: run gofmt -w on:" $$files >&2; exit 1; }

.PHONY: vet
vet: ## run go vet
	$(GO) vet ./...
	$(GO) vet -tags kms ./cmd/understudy

.PHONY: staticcheck
staticcheck: ## run staticcheck
	@$(GO) run ./test/tools staticcheck
	$(BIN)/staticcheck ./...

.PHONY: govulncheck
govulncheck: ## look for known vulnerabilities, where the database can be reached
	@$(GO) run ./test/tools govulncheck
	@out=$$($(BIN)/govulncheck ./... 2>&1) && echo "$$out" || case "$$out" in \
	*"fetching vulnerabilities"*) echo "govulncheck: skipped: its database cannot be reached" ;; \
	*) echo "$$out" >&2; exit 1 ;; \
	esac

.PHONY: imports
imports: ## check who imports what
	$(GO) test ./test

.PHONY: race
race: ## a short test run with the race detector
	@if command -v $$($(GO) env CC) >/dev/null; then \
		CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./...; \
	else $(call skip,there is no C compiler); fi

# The comment with protoc's own version may differ; nothing else may.
.PHONY: generated
generated: ## compare the committed generated code with new
	@if command -v protoc >/dev/null; then \
		new=$$(mktemp -d) && trap 'rm -r "$$new"' EXIT && \
		$(MAKE) --no-print-directory generate OUT="$$new" && \
		for file in proto/understudy/v1/*.pb.go; do \
			diff -u -I '^//.* protoc  *v' "$$file" "$$new/$$file" || { echo "generated: run make generate" >&2; exit 1; }; \
		done; \
	else $(call skip,there is no protoc); fi

OUT := .
.PHONY: generate
generate: ## generate code from the .proto files (needs protoc)
	@$(GO) run ./test/tools protoc-gen-go protoc-gen-go-grpc
	@PATH="$(CURDIR)/$(BIN):$$PATH" protoc --go_out="$(OUT)" --go_opt=paths=source_relative \
		--go-grpc_out="$(OUT)" --go-grpc_opt=paths=source_relative proto/understudy/v1/*.proto

.PHONY: rules
rules: ## check and test the Prometheus rules
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/prometheus/*.rules.yml && promtool test rules deploy/prometheus/*_test.yml; \
	else $(call skip,there is no promtool); fi

FUZZTIME := 20s
.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target" && $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf understudy .tools
