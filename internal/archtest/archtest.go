// Package archtest holds the rules of CONTRIBUTING.md that a machine can
// check, as tests: who may import whom, package comments, file sizes, calls
// and path names that belong in one place only. It has no product code. Start
// reading at rules_test.go, which is where an exception goes, with its reason.
package archtest
