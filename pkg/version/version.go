// Package version says which skiff this is. The values are stamped by the
// linker (see the Makefile); a plain `go build` leaves the defaults. It knows
// nothing about the versions of what skiff embeds. Start reading at Version.
package version

// Stamped at link time with -X. They are variables only for that reason, and
// nothing assigns to them.
var (
	// Version is what `git describe` said, or the Kubernetes version alone.
	Version = "v0.0.0-dev"
	// Commit is the full git commit, empty when unknown.
	Commit = ""
	// BuildDate is the time of that commit (RFC 3339, UTC), not of the build,
	// so that the same source gives the same executable.
	BuildDate = ""
)
