// Package crash proves that the datastore loses no acknowledged write and never
// uses a revision twice, whatever happens to its process, its disk, its files
// and its clock: kill -9, power cuts, failed syncs, a full disk, damaged pages,
// jumps of ten years. It has only tests; SKIFF_SEED repeats a run's choices, and
// images that fail are kept in the directory SKIFF_KEEP.
// The process that suffers is this test's executable again (victim), what it
// does to its directory is written down by the kernel (recorder) and turned
// into what a power cut leaves of it (disk), and what clients were told is in
// a ledger. Start reading at powercut_test.go.
package crash
