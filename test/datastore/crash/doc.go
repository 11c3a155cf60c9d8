// Package crash proves that the datastore loses no acknowledged write and never
// uses a revision twice, whatever happens to its process, its disk and its
// files: kill -9, power cuts, a full disk, damaged pages. It has only tests.
// The process that suffers is this test's executable again (victim), what it
// does to its directory is written down by the kernel (recorder) and turned
// into what a power cut leaves of it (disk), and what clients were told is in
// a ledger. Start reading at powercut_test.go.
package crash
