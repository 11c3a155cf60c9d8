package sqlite

// Path returns where the database is that New opens for the same Dir and File.
func Path(dir, file string) string { return Options{Dir: dir, File: file}.path() }
