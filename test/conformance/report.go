package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// summary is what a run comes down to.
type summary struct {
	passed          int
	failed, skipped []string // name and first line of the reason
}

// String lists what did not pass, a line or two each.
func (s summary) String() string {
	var b strings.Builder
	for _, line := range s.skipped {
		fmt.Fprintln(&b, "SKIP", line)
	}
	for _, line := range s.failed {
		fmt.Fprintln(&b, "FAIL", line)
	}
	return b.String()
}

// spec is what is read of a spec in ginkgo's JSON report.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	name := strings.TrimSpace(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "))
	if name == "" {
		return s.LeafNodeType
	}
	return name
}

// readReport sums up ginkgo's report. A spec that the focus has left out is
// "skipped" without a message and is not counted.
func readReport(path string) (summary, error) {
	var sum summary
	b, err := os.ReadFile(path)
	if err != nil {
		return sum, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(b, &suites); err != nil {
		return sum, fmt.Errorf("read %s: %w", path, err)
	}
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			reason, _, _ := strings.Cut(strings.TrimSpace(s.Failure.Message), "\n")
			switch {
			case s.State == "passed" && s.LeafNodeType == "It":
				sum.passed++
			case s.State == "passed" || s.State == "pending":
			case s.State == "skipped":
				if s.LeafNodeType == "It" && reason != "" {
					sum.skipped = append(sum.skipped, s.name()+" -- "+reason)
				}
			default:
				sum.failed = append(sum.failed, s.name()+"\n     "+reason[:min(len(reason), 200)])
			}
		}
	}
	return sum, nil
}

// quickSpecs are specs of a few seconds each, one or two per area.
var quickSpecs = []string{
	"ConfigMap should be consumable via environment variable",
	"Secrets should be consumable from pods in volume with mappings",
	"EmptyDir volumes should support (root,0644,tmpfs)",
	"Projected downwardAPI should provide podname only",
	"Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set",
	"Variable Expansion should allow substituting values in a container's args",
	"Networking Granular Checks: Pods should function for intra-pod communication: http",
	"DNS should provide DNS for the cluster",
	"Services should be able to change the type from ExternalName to ClusterIP",
	"ReplicaSet should serve a basic image on each replica with a public image",
	"Job should run a job to completion when tasks sometimes fail and are locally restarted",
	"CustomResourceDefinition resources [Privileged:ClusterAdmin] Simple CustomResourceDefinition creating/deleting custom resource definition objects works",
	"ServiceAccounts should mount projected service account token",
	"Kubectl client Kubectl expose should create services for rc",
}

// quickFocus is the regexp that selects quickSpecs.
func quickFocus() string {
	parts := make([]string, len(quickSpecs))
	for i, s := range quickSpecs {
		parts[i] = regexp.QuoteMeta(s)
	}
	return strings.Join(parts, "|")
}
