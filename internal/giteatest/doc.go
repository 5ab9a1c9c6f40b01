// Package giteatest runs a real Gitea on loopback, for tests and for the demo.
//
// Tests share one server, so each takes names of its own; see [ForTest]. A test
// that stops its server, or wants TLS, starts one with [NewForTest].
//
//	gitea := giteatest.ForTest(t)
//	user := gitea.NewUser(t)
//	...
//	git push gitea.GitURL(user.Name, user.Password, user.Name, "fleet")
//
// `make gitea` builds bin/gitea. Templates, translations and pictures come from
// Gitea's Go module. What is not in the module is what npm makes of Gitea's
// scripts and styles: pages can be read and forms sent, but nothing that needs a
// script works, such as menus. See styles.go.
package giteatest
