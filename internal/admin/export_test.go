package admin

// PasswordMatches lets tests compare hashes without a database.
func PasswordMatches(hash, password string) (bool, error) { return CheckPassword(hash, password) }
