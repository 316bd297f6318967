"""Models that come with a package: a file a library, each with a table of recipes or a way to ask the library."""
