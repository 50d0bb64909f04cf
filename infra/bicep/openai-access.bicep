// Assigns roles on an existing Azure OpenAI account. Runs in the account's resource group and subscription.

import { assignment } from 'types.bicep'

@description('Name of the account.')
param name string

@description('Roles on the account.')
param assignments assignment[]

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' existing = {
  name: name
}

resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for entry in assignments: {
    name: guid(account.id, entry.principalId, entry.roleId)
    scope: account
    properties: {
      principalId: entry.principalId
      principalType: entry.principalType
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', entry.roleId)
    }
  }
]
