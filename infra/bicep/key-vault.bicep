// Keeps the management key out of the app's settings.
// Its network stays open: a Flex Consumption app cannot resolve references to a vault behind a firewall.

import { roles } from 'types.bicep'

@description('Name of the vault.')
@minLength(3)
@maxLength(24)
param name string

@description('Azure region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Object id of the identity of the gateway.')
param principalId string

@description('Forbid everybody to purge the vault once it is deleted.')
param purgeProtection bool

@description('Recover the deleted vault of this name.')
param restore bool

@description('Log Analytics workspace that gets the audit log. Empty: none.')
param workspaceId string

@description('The management key.')
@secure()
param managementKey string

resource vault 'Microsoft.KeyVault/vaults@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    sku: {
      family: 'A'
      name: 'standard'
    }
    tenantId: tenant().tenantId
    enableRbacAuthorization: true
    createMode: restore ? 'recover' : 'default'
    enablePurgeProtection: purgeProtection ? true : null // Azure refuses `false`
    softDeleteRetentionInDays: 7
  }
}

resource secret 'Microsoft.KeyVault/vaults/secrets@2025-05-01' = {
  parent: vault
  name: 'management-key'
  properties: {
    contentType: 'text/plain'
    value: managementKey
  }
}

resource role 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(vault.id, principalId, roles.keyVaultSecretsUser)
  scope: vault
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.keyVaultSecretsUser)
  }
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (!empty(workspaceId)) {
  name: 'tollgate'
  scope: vault
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'AuditEvent'
        enabled: true
      }
    ]
  }
}

@description('Value of the app setting: a reference to the key.')
output reference string = '@Microsoft.KeyVault(VaultName=${vault.name};SecretName=${secret.name})'
