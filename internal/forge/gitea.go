package forge

import _ "code.gitea.io/sdk/gitea"
