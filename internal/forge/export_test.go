package forge

// SetPage makes a forge list less in one request.
func SetPage(f Forge, n int) {
	switch f := f.(type) {
	case *giteaForge:
		f.page = n
	case *githubForge:
		f.page = n
	}
}
