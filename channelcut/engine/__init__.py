"""Build and run inference engines: one small protocol, one module a backend, nothing imported before it is used."""
