// Package giteatest runs a real Gitea on loopback, for tests and for the demo.
//
// Tests share one server, so each takes names of its own; see [ForTest]. A test
// that stops its server, or wants TLS, starts one with [NewForTest].
//
//	gitea := giteatest.ForTest(t)
//	user := gitea.NewUser(t)
//	err := gitea.CreateRepo(t.Context(), user.Name, "fleet", true)
//	...
//	repo.Git("push", gitea.GitURL(user.Name, user.Password, user.Name, "fleet"), "main")
//
// `make gitea` builds bin/gitea. Templates, translations and pictures come from
// Gitea's Go module, which the go command finds or downloads. What npm makes of
// Gitea's scripts and styles is not in the module: pages can be read and one can
// sign in, but what needs a script does not work, such as the button that merges;
// see styles.go.
package giteatest
