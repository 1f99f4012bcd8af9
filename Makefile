# What CI does, step by step: every target calls a step of .ci/run or the one
# command that it is about.

.DEFAULT_GOAL := help
.PHONY: help check test race recipes demo demo-check crash bench docs ci

ROUNDS ?= 1000

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

check: ## format, vet, staticcheck, go.mod
	@.ci/run check

test: ## every test, by the README's command; a skipped one fails
	@.ci/run browser node test

race: ## the concurrent packages under the race detector
	@.ci/run race

recipes: ## the middleware behind chi, echo and gin
	@.ci/run recipes

demo: ## the bank in the browser
	go run ./cmd/semel demo

demo-check: ## the demo's scene without a page; fails on a double or lost effect
	@.ci/run demo

crash: ## kill the real program ROUNDS times at random, and at every named point
	go test -count=1 -timeout 0 -v ./internal/crash -crash.rounds $(ROUNDS)

bench: ## operations a second beside the same work written by hand
	go test -run '^$$' -bench . ./bench

docs: ## what the documents say: snippets, links, tables
	go test -count=1 ./docs

ci: ## everything, as CI does
	@.ci/run
